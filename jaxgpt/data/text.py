"""A text before it is tokenised: its files or documents, with what a first pass over them finds."""

import dataclasses
import hashlib
from typing import NamedTuple

from jaxgpt.data.corpus import Corpus, hash_documents
from jaxgpt.data.held_back import choose_held_back, split_documents, train_characters
from jaxgpt.data.preparation.inputs import Input, Split
from jaxgpt.data.preparation.reading import decoded
from jaxgpt.errors import UserError


class Text(NamedTuple):
    """Documents that are not tokenised yet: what a first pass over them has found."""

    name: str
    source_hash: str
    inputs: tuple[Input, ...]
    """With their splits."""
    characters: frozenset[str]
    bytes: int
    files: dict[str, str]
    """The SHA-256 of each file, where there are not too many."""


def in_memory(corpus: Corpus) -> Text:
    """A corpus with its splits."""
    documents = corpus.documents
    if len(documents) == 1:
        cut = train_characters(len(documents[0]))
        parts: dict[Split, list[str]] = {"train": [documents[0][:cut]], "validation": [documents[0][cut:]]}
    else:
        train, validation = split_documents(documents)
        parts = {"train": train, "validation": validation}
    inputs = tuple(
        Input(name, corpus.name, "memory", sum(map(len, texts)), split=name, alone=len(texts) == 1, texts=tuple(texts))
        for name, texts in parts.items()
    )
    characters = frozenset().union(*documents)
    return Text(corpus.name, corpus.source_hash, inputs, characters, sum(map(len, documents)), {})


def survey(name: str, inputs: tuple[Input, ...]) -> Text:
    """What a pass over files finds, a chunk in memory at a time. Blank files do not count."""
    kept: list[Input] = []
    digests: list[bytes] = []
    sizes: list[int] = []
    characters: set[str] = set()
    length = 0
    for one in inputs:
        digest, size, length, blank, own = hashlib.sha256(), 0, 0, True, set[str]()
        for chunk in decoded(one, "strict"):
            content = chunk.encode()
            digest.update(content)
            size, length, blank = size + len(content), length + len(chunk), blank and not chunk.strip()
            own.update(chunk)
        if not blank:
            kept.append(one)
            digests.append(digest.digest())
            sizes.append(size)
            characters |= own
    if not kept:
        raise UserError(f"data {name!r} is empty: give a text file, or a folder of them")
    files = {one.name: digest.hex() for one, digest in zip(kept, digests)} if len(kept) <= 10_000 else {}
    found = _with_splits(kept, digests, sizes, length)
    return Text(name, hash_documents(digests), found, frozenset(characters), sum(sizes), files)


def _with_splits(inputs: list[Input], digests: list[bytes], sizes: list[int], length: int) -> tuple[Input, ...]:
    """Of a single text, its end is validation; of several, whole ones are. `length`: characters of the last."""
    if len(inputs) == 1:
        cut = train_characters(length)
        first = dataclasses.replace(inputs[0], split="train", characters=(0, cut), alone=True)
        return first, dataclasses.replace(first, split="validation", characters=(cut, None))
    held_back = choose_held_back(digests, sizes)
    parts: list[tuple[Split, list[int]]] = [
        ("train", [i for i in range(len(inputs)) if i not in held_back]),
        ("validation", sorted(held_back)),
    ]
    return tuple(
        dataclasses.replace(inputs[i], split=split, alone=len(chosen) == 1) for split, chosen in parts for i in chosen
    )
