"""What --data.source may name, opened: prepared folders, other programs' token files, text."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt.data.foreign import is_foreign, open_foreign
from jaxgpt.data.learned import learned_size
from jaxgpt.data.mixture import Mixture, parse_mixture
from jaxgpt.data.preparation.inputs import HUB, STDIN, named_path
from jaxgpt.data.preparation.manifest import is_prepared
from jaxgpt.data.prepared import open_prepared
from jaxgpt.data.text_cache import prepare_text
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokens import TokenData, join_tokens
from jaxgpt.errors import UserError


def prepare(source: str, tokenizer: str | Tokenizer, cache: Path | None = None) -> TokenData:
    """The tokens of a source: stdlib, shakespeare, a text file or folder, a prepared folder, or token files.

    Text is tokenised once per cache folder. The tokenizer is `gpt2`, `char` (the characters of the text), a folder's,
    or one made before; token files have their own where it lies beside them.

    Raises:
        UserError: There is no such source, it is not whole, or its tokens are another tokenizer's.

    Example:
        >>> from jaxgpt.data import prepare
        >>> data = prepare("stdlib", "gpt2")
        >>> len(data.train) > len(data.validation)
        True
    """
    folder = named_path(source)
    if source == STDIN or source.startswith(HUB):
        raise UserError(f"data {source!r} is read once: `jaxgpt data prepare {source} FOLDER`, then train on FOLDER")
    if is_prepared(folder):
        data = open_prepared(folder)
        if not isinstance(tokenizer, str):
            _check_same(tokenizer, data, source)
        return data
    if is_foreign(source):
        return open_foreign(source, tokenizer, cache)
    return prepare_text(source, tokenizer, cache)


def open_data(
    source: str,
    tokenizer: str | Tokenizer,
    *,
    mixture: Sequence[str] = (),
    val_source: str | None = None,
    cache: Path | None = None,
) -> TokenData:
    """`prepare`, or a mixture of sources in place of `source`; validation from `val_source` where one is named.

    `mixture` has SOURCE=WEIGHT for each source. `train` of the result is then a Mixture, which Batches reads.

    Raises:
        UserError: As `prepare` does; or the sources have different tokenizers, or there is nothing for validation.
    """
    if mixture:
        weights = parse_mixture(mixture)
        sources: dict[str, TokenData] = {}
        for name in weights:
            sources[name] = prepare(name, tokenizer, cache)
            if learned_size(tokenizer) is not None:  # from the first source, for all
                tokenizer = sources[name].tokenizer
        data = _mixed(sources, weights)
    else:
        data = prepare(source, tokenizer, cache)
    if val_source is not None:
        other = prepare(val_source, data.tokenizer, cache)
        validation = other.validation if len(other.validation) else other.train
        data = _with_validation(data, other, validation)
    if not len(data.validation):
        raise UserError(
            f"data {source!r} holds nothing back for validation: name a source for it by --data.val-source, or prepare "
            "it with --validation or --val-tokens"
        )
    return data


def changed_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """The files whose hashes differ, or which one of both lacks."""
    return [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]


def file_hashes(manifest: dict[str, Any]) -> dict[str, str]:
    """The hash of each file that data came from; empty where it is not known."""
    if "files" in manifest:
        return dict(manifest["files"])
    return {shard["file"]: shard["sha256"] for shard in manifest.get("shards", ())}


def _check_same(tokenizer: Tokenizer, data: TokenData, source: str) -> None:
    if tokenizer.spec() != data.tokenizer.spec():
        raise UserError(
            f"data {source!r} is in the tokens of {data.tokenizer.name} ({data.tokenizer.vocab_size}), and "
            f"{tokenizer.name} ({tokenizer.vocab_size}) is needed: prepare it again with --tokenizer"
        )


def _with_validation(data: TokenData, other: TokenData, validation: Any) -> TokenData:
    split = "validation" if len(other.validation) else "train"
    manifest = data.manifest | {
        "splits": {**data.manifest["splits"], "validation": other.manifest["splits"][split]},
        "source_hash": _hash([data.manifest["source_hash"], other.manifest["source_hash"], split]),
        "files": file_hashes(data.manifest)
        | {f"validation: {name}": value for name, value in file_hashes(other.manifest).items()},
    }
    return dataclasses.replace(data, validation=validation, manifest=manifest)


def _mixed(sources: dict[str, TokenData], weights: dict[str, float]) -> TokenData:
    """Several sources as one; validation is that of all, one after another."""
    first = next(iter(sources.values()))
    for name, data in sources.items():
        _check_same(first.tokenizer, data, name)
    manifests = {name: data.manifest for name, data in sources.items()}
    splits = {
        split: {
            what: _sum([manifest["splits"][split][what] for manifest in manifests.values()])
            for what in ("tokens", "bytes", "documents")
        }
        for split in ("train", "validation")
    }
    manifest = {
        "source": " + ".join(f"{name} ({weight:g})" for name, weight in weights.items()),
        "tokenizer": first.tokenizer.spec(),
        "splits": splits,
        "source_hash": _hash([[weights[name], manifests[name]["source_hash"]] for name in weights]),
        "files": {f"{name}: {file}": value for name in weights for file, value in file_hashes(manifests[name]).items()},
    }
    train = Mixture([(data.train, weights[name]) for name, data in sources.items()])
    held_back = [data.validation for data in sources.values() if len(data.validation)]
    return TokenData(train, join_tokens(held_back or [first.validation]), first.tokenizer, manifest)


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _hash(key: Any) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()
