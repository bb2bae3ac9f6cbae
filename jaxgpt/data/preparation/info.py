"""What a prepared folder holds, for people."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxgpt.data.preparation.manifest import changed_shards, check_unchanged, read_manifest
from jaxgpt.data.token_files import open_token_file
from jaxgpt.data.tokenizer import Tokenizer, from_spec
from jaxgpt.errors import UserError

PIECE = 1 << 22
"""Tokens that are looked at together."""
SHOWN = 60
"""Tokens of a document that are shown."""


def describe(folder: Path, *, verify: bool = False, documents: int = 3, seed: int = 0) -> str:
    """Counts, the lengths of the documents, and the first lines of some.

    Raises:
        UserError: The folder is not whole; or, with `verify`, a file is not what the manifest says.
    """
    manifest = read_manifest(folder)
    check_unchanged(folder, manifest)
    tokenizer = from_spec(manifest["tokenizer"])
    if verify and (changed := changed_shards(folder, manifest)):
        raise UserError(f"{folder} has changed since it was prepared: {', '.join(changed)}; copy or prepare it again")
    lines = [
        f"{folder}: tokenizer {tokenizer.name}, {manifest['vocab_size']:,} tokens" + (", hashes verified" * verify)
    ]
    for split, counts in manifest["splits"].items():
        shards = [
            open_token_file(folder / shard["file"]).map() for shard in manifest["shards"] if shard["split"] == split
        ]
        lines.append(
            f"{split}: {counts['tokens']:,} tokens in {len(shards)} shards, {counts['documents']:,} documents, "
            f"{counts['bytes']:,} bytes of text ({counts['bytes'] / max(1, counts['tokens']):.2f} a token)"
        )
        lines += _histogram(shards, tokenizer)
    train = [shard["file"] for shard in manifest["shards"] if shard["split"] == "train"]
    for number in range(documents):
        name = train[int(np.random.default_rng((seed, number)).integers(len(train)))]
        tokens = open_token_file(folder / name).map()
        at = int(np.random.default_rng((seed, number, 1)).integers(len(tokens)))
        lines.append(f"{name}, document at token {at:,}: {_first_lines(tokens, at, tokenizer)!r}")
    return "\n".join(lines)


def _first_lines(tokens: np.ndarray, at: int, tokenizer: Tokenizer) -> str:
    """The beginning of the document that begins at or after a token; of the text from there where none does."""
    ends = np.flatnonzero(tokens[at : at + PIECE] == tokenizer.end_of_text)
    start = at + int(ends[0]) + 1 if len(ends) else at
    shown = itertools.takewhile(lambda token: token != tokenizer.end_of_text, tokens[start : start + SHOWN].tolist())
    return tokenizer.decode(shown)


def _histogram(shards: list[np.ndarray], tokenizer: Tokenizer) -> Iterator[str]:
    """How many documents have how many tokens, by powers of ten."""
    if tokenizer.end_of_text is None or not shards:
        return
    counts = np.zeros(12, int)
    length = 0  # of the document that the piece before has left open
    for tokens in shards:
        for start in range(0, len(tokens), PIECE):
            piece = tokens[start : start + PIECE]
            starts = np.flatnonzero(piece == tokenizer.end_of_text)
            ends = np.diff(starts, prepend=-length if len(starts) else 0)
            counts += _by_power(ends[ends > 0] - 1)
            length = len(piece) - int(starts[-1]) if len(starts) else length + len(piece)
    counts += _by_power(np.array([length - 1]))
    widest = max(1, counts.max())
    for power, count in enumerate(counts):
        if count:
            yield f"  {10**power:>13,} tokens and more {count:>12,} {'#' * max(1, round(40 * count / widest))}"


def _by_power(lengths: np.ndarray) -> np.ndarray:
    lengths = lengths[lengths > 0]
    return np.bincount(np.log10(lengths).astype(int), minlength=12)[:12] if len(lengths) else np.zeros(12, int)
