"""Folders that `jaxgpt data prepare` has made, opened for training."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.preparation.manifest import NAME, check_unchanged, read_manifest
from jaxgpt.data.token_files import HEADER_BYTES, TokenFile, token_dtype
from jaxgpt.data.tokenizer import Tokenizer, from_spec
from jaxgpt.data.tokens import TokenData, join_tokens
from jaxgpt.errors import UserError


def open_prepared(folder: Path) -> TokenData:
    """The tokens of a prepared folder, memory-mapped. Shards written to since the manifest are read and compared.

    Raises:
        UserError: A file is missing, not whole, or changed, or its largest token is beyond the vocabulary.
    """
    manifest = read_manifest(folder)
    tokenizer = _tokenizer(folder, manifest)
    check_unchanged(folder, manifest)
    dtype = token_dtype(manifest["vocab_size"])
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if shard["largest"] >= manifest["vocab_size"]:
            raise UserError(
                f"{path} holds token {shard['largest']} of {manifest['vocab_size']}: prepare the data again"
            )
        parts[shard["split"]].append(TokenFile(path, shard["tokens"], dtype, HEADER_BYTES).map())
    train, validation = (join_tokens(parts[split] or [np.zeros(0, dtype)]) for split in ("train", "validation"))
    return TokenData(train, validation, tokenizer, {"source": folder.name, **manifest})


def _tokenizer(folder: Path, manifest: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a manifest tells. Raises UserError where it is none, or has another number of tokens."""
    try:
        tokenizer = from_spec(manifest["tokenizer"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / NAME} does not tell its tokenizer ({error!r}): prepare the data again") from None
    if tokenizer.vocab_size != manifest["vocab_size"]:
        raise UserError(
            f"{folder / NAME} says {manifest['vocab_size']} tokens, and its tokenizer has {tokenizer.vocab_size}: "
            "prepare the data again"
        )
    return tokenizer
