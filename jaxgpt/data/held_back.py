"""What is held back of a text for validation: a tenth."""

import hashlib
from collections.abc import Sequence

from jaxgpt.errors import UserError

HELD_BACK = 0.1
"""The fraction of the text that is validation."""


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """The documents for training and those for validation, both in order."""
    contents = [document.encode() for document in documents]
    held_back = choose_held_back([hashlib.sha256(text).digest() for text in contents], [len(text) for text in contents])
    train = [document for i, document in enumerate(documents) if i not in held_back]
    return train, [documents[i] for i in sorted(held_back)]


def choose_held_back(digests: list[bytes], sizes: list[int]) -> set[int]:
    """Documents with a tenth of the bytes, at least one: those with the smallest hashes that fit.

    The order of hashes is random to the text, so every kind of document is held back, and the same on all machines.
    """
    order = sorted(range(len(digests)), key=digests.__getitem__)
    room, held_back = HELD_BACK * sum(sizes), set()
    for i in order:
        if sizes[i] <= room:
            held_back.add(i)
            room -= sizes[i]
    return held_back or {min(order, key=sizes.__getitem__)}


def train_characters(length: int) -> int:
    """Of a single text of so many: validation begins after them. Raises UserError where a part would be empty."""
    cut = int(length * (1 - HELD_BACK))
    if not 0 < cut < length:
        raise too_short("train")
    return cut


def too_short(part: str) -> UserError:
    return UserError(
        f"the text is too short to hold back a tenth of it for validation: its {part} part is empty; add text"
    )
