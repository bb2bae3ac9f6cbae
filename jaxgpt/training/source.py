"""What a trainer reads: a named text, a path, token ids, or tokens prepared before; and the vocabulary that follows."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgpt.config import GPTConfig
from jaxgpt.data import TokenData, Tokenizer
from jaxgpt.data import open_data as open_source
from jaxgpt.errors import UserError
from jaxgpt.training.config import CORPORA, DataConfig, TrainConfig
from jaxgpt.training.presets import PRESETS

Data = str | Path | TokenData | Sequence[int] | np.ndarray
"""A named text or the path of one, token ids [N], or tokens prepared before."""

HELD_OUT = 0.1
"""The fraction of an array of token ids that is validation: its end."""


class Source(NamedTuple):
    """Tokens, the config that names them, and what no config can name."""

    tokens: TokenData
    config: TrainConfig
    from_python: dict[str, str]


def open_data(
    data: Data | None, config: TrainConfig, tokenizer: Tokenizer | None = None, by_hand: bool = False
) -> Source:
    """The tokens to train on, in `tokenizer` or the config's. None: the config's own.

    The model's vocabulary follows the tokenizer, unless it was set by hand. Raises UserError where there is no such
    text, and where token ids are beyond the vocabulary.
    """
    if isinstance(data, (str, Path)):
        named = dataclasses.replace(config.data, source=absolute(str(data)), mixture=())
        config, data = dataclasses.replace(config, data=named), None
    if data is None:
        tokens = open_config(config.data, tokenizer)
        return Source(tokens, config if by_hand else follow_vocabulary(config, tokens.tokenizer), {})
    if isinstance(data, TokenData):
        return Source(
            data, config if by_hand else follow_vocabulary(config, data.tokenizer), {"data": "tokens prepared before"}
        )
    tokens = from_ids(np.asarray(data), config.model.vocab_size)
    return Source(tokens, config, {"data": f"an array of {len(tokens.train) + len(tokens.validation)} token ids"})


def open_config(data: DataConfig, tokenizer: Tokenizer | None = None) -> TokenData:
    """What a config names. Raises UserError where it names nothing."""
    if data.source is None and not data.mixture:
        raise UserError(
            "data.source must be named: this preset needs much text. Prepare FineWeb-10B by `jaxgpt data prepare "
            "hf://datasets/HuggingFaceFW/fineweb/sample/10BT fineweb10B --val-tokens 10485760`, and read it by "
            "--data.source fineweb10B; its 10^10 tokens are 19,073 steps of 2^19"
        )
    return open_source(data.source or "", tokenizer or data.tokenizer, mixture=data.mixture, val_source=data.val_source)


def with_absolute_paths(data: DataConfig) -> DataConfig:
    """The same sources by their whole paths, so that a run is resumed from any folder."""
    parts = (text.rpartition("=") for text in data.mixture)
    return dataclasses.replace(
        data,
        source=None if data.source is None else absolute(data.source),
        val_source=None if data.val_source is None else absolute(data.val_source),
        mixture=tuple(f"{absolute(source)}={weight}" for source, _, weight in parts),
    )


def absolute(source: str) -> str:
    """A text's whole path, so that a run is resumed from any folder; a named text stays as it is."""
    path = Path(source).expanduser()
    return source if source in CORPORA or not source.strip() or not path.exists() else str(path.resolve())


def follow_vocabulary(config: TrainConfig, tokenizer: Tokenizer | None) -> TrainConfig:
    """The config with as many tokens as the tokenizer has, unless the number is one that no preset has."""
    usual = {GPTConfig().vocab_size, *(preset.config.model.vocab_size for preset in PRESETS.values())}
    if tokenizer is None or config.model.vocab_size not in usual:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=tokenizer.vocab_size))


def from_ids(ids: np.ndarray, vocab_size: int) -> TokenData:
    """Token ids [N] as data; the last tenth is validation."""
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or not len(ids):
        raise UserError(f"data is an array {list(ids.shape)} of {ids.dtype}: give whole numbers in one dimension")
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        beyond = ids.min() if ids.min() < 0 else ids.max()
        raise UserError(
            f"data has token {beyond}, and vocab_size={vocab_size}: ids are 0 to vocab_size - 1; set model.vocab_size"
        )
    ids = ids.astype(np.uint16 if vocab_size <= 2**16 else np.uint32)
    cut = int(len(ids) * (1 - HELD_OUT))
    splits = {"train": {"tokens": cut}, "validation": {"tokens": len(ids) - cut}}
    manifest = {"source": "token ids", "source_hash": hashlib.sha256(ids.tobytes()).hexdigest(), "splits": splits}
    return TokenData(ids[:cut], ids[cut:], None, manifest)  # type: ignore[arg-type]
