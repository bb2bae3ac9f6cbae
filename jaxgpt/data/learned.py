"""Byte pairs learnt from the text that is trained on: `--data.tokenizer bpe-2048`."""

import hashlib
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

from jaxgpt.data.hf_tokenizer import HFTokenizer, train_bpe
from jaxgpt.data.preparation.inputs import Input
from jaxgpt.data.preparation.manifest import write_json
from jaxgpt.data.preparation.tokenise import Settings, read_texts
from jaxgpt.data.tokenizer import from_spec
from jaxgpt.errors import UserError


def learned_size(name: object) -> int | None:
    """How many tokens a name asks for, at most; None: it is another tokenizer's.

    >>> learned_size("bpe-2048"), learned_size("gpt2")
    (2048, None)
    """
    found = re.fullmatch(r"bpe-(\d{1,6})", name) if isinstance(name, str) else None
    return None if found is None else int(found[1])


def learn(name: str, inputs: Sequence[Input], settings: Settings, text_key: str, cache: Path) -> HFTokenizer:
    """The tokenizer of the training part of a text, learnt once per cache folder. `text_key`: all that the text is.

    A small text has fewer pairs, and a smaller vocabulary. Raises UserError where the size does not hold every byte.
    """
    key = hashlib.sha256(json.dumps([name, text_key, version("tokenizers")]).encode()).hexdigest()[:16]
    path = cache / f"{name}-{key}.json"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{path.name}.lock"):
        try:
            kept = from_spec(json.loads(path.read_text(encoding="utf-8")))
            if isinstance(kept, HFTokenizer):
                return kept
        except (OSError, ValueError, KeyError, TypeError):  # a UserError is a ValueError: not there, or damaged
            pass
        try:
            learnt = train_bpe(read_texts(inputs, settings, split="train"), learned_size(name) or 0, at_most=True)
        except UserError as error:
            raise UserError(f"data.tokenizer={name!r}: {error}") from None
        write_json(path, learnt.spec())
        return learnt
