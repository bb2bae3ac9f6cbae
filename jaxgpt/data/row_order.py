"""Where each row of an endless sequence starts in the text: pure functions of the row's number and a seed."""

from functools import lru_cache
from typing import Any, Protocol

import numpy as np

Key = tuple[int, ...]

BLOCK_TOKENS = 1 << 19
"""A megabyte of uint16."""
BUFFER_BLOCKS = 16
"""Blocks whose windows are shuffled among each other."""


class RowOrder(Protocol):
    """Made of the number of tokens, the context length, and a key for what is random."""

    def __init__(self, tokens: int, context_length: int, key: Key) -> None: ...

    def start(self, row: int) -> int:
        """The place of the row's first token."""
        ...


class Shuffled:
    """Windows lie end to end round a ring of tokens, pass after pass; each pass has its own order."""

    def __init__(self, tokens: int, context_length: int, key: Key) -> None:
        self.tokens, self.context_length, self.key = tokens, context_length, key

    def start(self, row: int) -> int:
        epoch = row * self.context_length // self.tokens
        first, after = (-(-each * self.tokens // self.context_length) for each in (epoch, epoch + 1))
        window = first + self.shuffled(row - first, after - first, epoch)
        return window * self.context_length % self.tokens

    def shuffled(self, place: int, windows: int, epoch: int) -> int:
        """Which of an epoch's windows is read at a place of it."""
        return permuted(place, windows, (*self.key, epoch))


class BlockShuffled(Shuffled):
    """The same, with blocks of neighbouring windows in random order, and windows shuffled among a few such blocks."""

    def shuffled(self, place: int, windows: int, epoch: int) -> int:
        size = max(1, BLOCK_TOKENS // self.context_length)
        blocks = windows // size
        group, inside = divmod(place, BUFFER_BLOCKS * size)
        if place >= blocks * size:  # what remains of the text when it is cut into whole blocks
            return blocks * size + permuted(place - blocks * size, windows - blocks * size, (*self.key, epoch, 0))
        in_group = min(BUFFER_BLOCKS * size, blocks * size - group * BUFFER_BLOCKS * size)
        block, window = divmod(permuted(inside, in_group, (*self.key, epoch, 1 + group)), size)
        return permuted(group * BUFFER_BLOCKS + block, blocks, (*self.key, epoch)) * size + window


class Version01:
    """The order of runs that version 0.1 began: windows with a gap of one token at most, the end of the text unread."""

    def __init__(self, tokens: int, context_length: int, key: Key) -> None:
        import grain

        self.context_length, (self.seed,) = context_length, key
        self.windows = max(1, tokens // context_length - 1)
        self.shifts = min(context_length, tokens - self.windows * context_length)
        self.order = grain.MapDataset.range(self.windows).seed(self.seed).shuffle().repeat()

    def start(self, row: int) -> int:
        shift = int(np.random.default_rng((self.seed, row // self.windows)).integers(self.shifts))
        return shift + int(self.order[row]) * self.context_length


def permuted(place: int, size: int, key: Key) -> int:
    """The place's image under a permutation of `size` places that the key names."""
    return int(_permutation(size, key)[place])


@lru_cache(maxsize=64)
def _permutation(size: int, key: Key) -> Any:
    import grain  # 0.5 s with orbax, which it imports: a run that begins spends them while its weights are drawn

    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    return grain.MapDataset.range(size).shuffle(seed=seed)
