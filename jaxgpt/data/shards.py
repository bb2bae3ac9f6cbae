"""Token shards: a corpus tokenised once, kept as uint16 files, read by memory mapping."""

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.corpus import Corpus, read
from jaxgpt.data.tokenizer import CharTokenizer, Tokenizer, from_spec
from jaxgpt.data.tokenizer_files import as_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder

FORMAT = 1
HELD_BACK = 0.1
"""The fraction of the text that is validation."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenData:
    """A corpus as token ids, in two parts that share no text."""

    train: np.ndarray
    validation: np.ndarray
    tokenizer: Tokenizer
    manifest: dict[str, Any]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per validation token; nats per token / ln 2 / this is bits per byte."""
        counts = self.manifest["splits"]["validation"]
        return counts["bytes"] / counts["tokens"]


def prepare(source: str, tokenizer: str | Tokenizer, cache: Path | None = None) -> TokenData:
    """The tokens of a corpus, made at most once per cache folder.

    The tokenizer is `gpt2`, `char` (the characters of this corpus), a folder's, or one made before, such as a run's.
    """
    named = tokenizer if tokenizer == CharTokenizer.name else as_tokenizer(tokenizer)
    corpus = read(source)
    chosen = CharTokenizer.from_text("".join(corpus.documents)) if isinstance(named, str) else named
    if chosen.vocab_size > 2**16:
        raise UserError(f"the tokenizer has {chosen.vocab_size} tokens, and shards hold ids below 65536 (uint16)")
    key = json.dumps([FORMAT, HELD_BACK, corpus.source_hash, corpus.tabs, chosen.spec()], sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    folder = (cache or cache_folder()) / "tokens" / f"{corpus.name}-{chosen.name}-{digest}"
    if folder.exists() and not is_whole(folder):
        log.warning("%s is damaged: making it again", folder)
        shutil.rmtree(folder)
    if not folder.exists():
        _write(folder, corpus, chosen)
    return load(folder)


def load(folder: Path) -> TokenData:
    """The token data in a folder, memory-mapped."""
    if not is_whole(folder):
        raise ValueError(f"{folder} does not hold whole token shards of format {FORMAT}: prepare the data again")
    manifest = json.loads((folder / "manifest.json").read_text())
    train, validation = (np.memmap(folder / f"{split}.bin", np.uint16, "r") for split in ("train", "validation"))
    return TokenData(train, validation, from_spec(manifest["tokenizer"]), manifest)


def is_whole(folder: Path) -> bool:
    """Whether the files in a folder are as long as its manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        sizes = {split: (folder / f"{split}.bin").stat().st_size for split in manifest["splits"]}
        return manifest["format"] == FORMAT and all(
            sizes[split] == 2 * counts["tokens"] for split, counts in manifest["splits"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def split(documents: list[str]) -> tuple[list[str], list[str]]:
    """Nine tenths for training and one for validation: of a single text its end, of several whole documents."""
    if len(documents) == 1:
        cut = int(len(documents[0]) * (1 - HELD_BACK))
        return [documents[0][:cut]], [documents[0][cut:]]
    sizes = [len(document.encode()) for document in documents]
    room = HELD_BACK * sum(sizes)
    # The order of hashes is random to the text, so every kind of document is held back, and the same on all machines.
    order = sorted(range(len(documents)), key=lambda i: hashlib.sha256(documents[i].encode()).digest())
    held_back = set()
    for i in order:
        if sizes[i] <= room:
            held_back.add(i)
            room -= sizes[i]
    held_back = held_back or {min(order, key=sizes.__getitem__)}
    train = [document for i, document in enumerate(documents) if i not in held_back]
    return train, [documents[i] for i in sorted(held_back)]


def _write(folder: Path, corpus: Corpus, tokenizer: Tokenizer) -> None:
    """Tokenise into `folder`, which appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder.parent) as temporary:
        whole = Path(temporary) / "whole"
        whole.mkdir()
        parts = dict(zip(("train", "validation"), split(corpus.documents), strict=True))
        manifest = {
            "format": FORMAT,
            "source": corpus.name,
            "source_hash": corpus.source_hash,
            "tokenizer": tokenizer.spec(),
            "splits": {name: _write_split(whole, name, texts, tokenizer) for name, texts in parts.items()},
        }
        (whole / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        try:
            whole.rename(folder)
        except OSError:
            if not is_whole(folder):  # otherwise another process was faster, with the same tokens
                raise


def _write_split(folder: Path, name: str, texts: list[str], tokenizer: Tokenizer) -> dict[str, int]:
    pieces = tokenizer.encode_all(texts)
    if tokenizer.end_of_text is not None and len(texts) > 1:
        end = np.array([tokenizer.end_of_text], np.uint16)
        pieces = [part for piece in pieces for part in (piece, end)]
    tokens = np.concatenate(pieces)
    if not len(tokens):
        raise ValueError(
            f"the text is too short to hold back a tenth of it for validation: its {name} part is empty; add text"
        )
    tokens.astype("<u2").tofile(folder / f"{name}.bin")
    return {"tokens": len(tokens), "bytes": sum(len(text.encode()) for text in texts), "documents": len(texts)}
