"""Token ids on the disk as one long array, however many files hold them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, gpt2_encoding


class Tokens:
    """Arrays one after another, of which slices are read: `tokens[a:b]` touches those ids and no others.

    >>> tokens = Tokens([np.arange(3), np.arange(3, 10)])
    >>> len(tokens), tokens[1:5]
    (10, array([1, 2, 3, 4]))
    """

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = [array for array in arrays if len(array)]
        self.ends = np.cumsum([len(array) for array in self.arrays], dtype=np.int64)
        self.dtype = np.result_type(*{array.dtype for array in self.arrays}) if self.arrays else np.dtype(np.uint16)
        self.shape = (len(self),)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, where: Any) -> Any:
        if not isinstance(where, slice):
            index = where + len(self) if where < 0 else where
            if not 0 <= index < len(self):
                raise IndexError(f"token {where} of {len(self)}")
            return self[index : index + 1][0]
        start, stop, step = where.indices(len(self))
        if step != 1:
            return np.asarray(self)[where]
        first, last = np.searchsorted(self.ends, [start, max(start, stop - 1)], "right")
        parts = []
        for number in range(first, min(last + 1, len(self.arrays))):
            begin = int(self.ends[number]) - len(self.arrays[number])
            parts.append(self.arrays[number][max(0, start - begin) : max(0, stop - begin)])
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = np.concatenate(self.arrays) if self.arrays else np.zeros(0, self.dtype)
        return whole if dtype is None else whole.astype(dtype)


@dataclass(frozen=True)
class TokenData:
    """A corpus as token ids, in two parts that share no text."""

    train: Any
    """int[N], as an array or as Tokens: it has a length and gives slices."""
    validation: Any
    """int[M], the same."""
    tokenizer: Tokenizer
    manifest: dict[str, Any]
    """`source`, `source_hash` (of all that matters), and of each split `tokens`, `bytes` and `documents`."""

    @cached_property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text per validation token; nats per token / ln 2 / this is bits per byte. None: not known."""
        return self.bytes_per_token_of("validation")

    def bytes_per_token_of(self, split: str) -> float | None:
        """The same of either split. Where no manifest says it, the tokens are looked at."""
        counts = self.manifest["splits"][split]
        if counts.get("bytes") is not None:
            return counts["bytes"] / counts["tokens"]
        total = count_bytes(getattr(self, split), self.tokenizer)
        return None if total is None else total / counts["tokens"]


def count_bytes(tokens: Any, tokenizer: Tokenizer, piece: int = 1 << 22) -> int | None:
    """Bytes of the text that token ids spell, special tokens left out; None for tokenizers that do not say it."""
    if isinstance(tokenizer, GPT2Tokenizer):
        encoding = gpt2_encoding()
        spelled = [len(encoding.decode_single_token_bytes(i)) for i in range(tokenizer.vocab_size - 1)]
        lengths = np.array([*spelled, 0])
    elif isinstance(tokenizer, CharTokenizer):
        lengths = np.array([len(character.encode()) for character in tokenizer.characters])
    else:
        return None
    starts = range(0, len(tokens), piece)
    return sum(int(lengths[np.minimum(tokens[start : start + piece], len(lengths) - 1)].sum()) for start in starts)


def find_token(tokens: Any, token: int, piece: int = 1 << 22) -> np.ndarray:
    """Where a token stands, in order.

    >>> find_token(np.array([0, 5, 0]), 0).tolist()
    [0, 2]
    """
    starts = range(0, len(tokens), piece)
    found = [start + np.flatnonzero(tokens[start : start + piece] == token) for start in starts]
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def largest_token(tokens: Any, piece: int = 1 << 22) -> int:
    """The largest id."""
    starts = range(0, len(tokens), piece)
    return max((int(tokens[start : start + piece].max()) for start in starts), default=0)


def join_tokens(arrays: Sequence[Any]) -> Any:
    """Several arrays as one; a single one as it is."""
    return arrays[0] if len(arrays) == 1 else Tokens([part for array in arrays for part in _parts(array)])


def _parts(array: Any) -> list[np.ndarray]:
    return array.arrays if isinstance(array, Tokens) else [array]


def ring_pieces(start: int, length: int, size: int) -> list[slice]:
    """Where `length` places lie that follow `start` in a ring of `size` places.

    >>> ring_pieces(8, 5, 10)
    [slice(8, 10, None), slice(0, 3, None)]
    """
    pieces = []
    start %= size
    while length > 0:
        stop = min(size, start + length)
        pieces.append(slice(start, stop))
        length -= stop - start
        start = 0
    return pieces
