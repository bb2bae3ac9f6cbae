"""Layout strings: how one tensor of another library is laid out in ours, read in both directions.

`d (n h | k h | k h) -> d n h, d k h, d k h` says: their second axis holds three parts in a row, each of two axes that
are flattened there; every part becomes an array of ours with the axes named. Letters: v vocabulary, t positions,
d width, f feed-forward, n query heads, k key-value heads, h head size.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

Part = tuple[str, ...]
Sizes = Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout string, taken apart."""

    theirs: tuple[tuple[Part, ...], ...]
    """For each axis of their tensor its parts in a row, each a list of flattened axes; one axis at most has several."""
    ours: tuple[Part, ...]
    """The axes of each of our arrays."""

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape of their tensor."""
        return tuple(sum(_size(part, sizes) for part in parts) for parts in self.theirs)

    def split(self, tensor: np.ndarray, sizes: Sizes) -> list[np.ndarray]:
        """Our arrays, as views of their tensor: nothing is read or copied until an element is used."""
        return [self._take(tensor, number, sizes) for number in range(len(self.ours))]

    def join(self, arrays: Sequence[np.ndarray], sizes: Sizes) -> np.ndarray:
        """Their tensor, from our arrays: the inverse of `split`."""
        merged = [self._flatten(array, number, sizes) for number, array in enumerate(arrays)]
        several = [axis for axis, parts in enumerate(self.theirs) if len(parts) > 1]
        return np.concatenate(merged, axis=several[0]) if several else merged[0]

    def _parts(self, number: int) -> list[Part]:
        """The axes of our array `number`, in their order and grouping."""
        return [parts[number] if len(parts) > 1 else parts[0] for parts in self.theirs]

    def _take(self, tensor: np.ndarray, number: int, sizes: Sizes) -> np.ndarray:
        bounds = []
        for parts, part in zip(self.theirs, self._parts(number)):
            start = sum(_size(earlier, sizes) for earlier in parts[:number]) if len(parts) > 1 else 0
            bounds.append(slice(start, start + _size(part, sizes)))
        letters = [letter for part in self._parts(number) for letter in part]
        unfolded = tensor[tuple(bounds)].reshape([sizes[letter] for letter in letters])
        return unfolded.transpose([letters.index(letter) for letter in self.ours[number]])

    def _flatten(self, array: np.ndarray, number: int, sizes: Sizes) -> np.ndarray:
        letters = [letter for part in self._parts(number) for letter in part]
        ordered = array.transpose([self.ours[number].index(letter) for letter in letters])
        return ordered.reshape([_size(part, sizes) for part in self._parts(number)])


@cache
def layout(text: str) -> Layout:
    """The layout that a string describes."""
    left, right = text.split("->")
    axes = [grouped or single for grouped, single in re.findall(r"\(([^)]*)\)|(\w+)", left)]
    theirs = tuple(tuple(tuple(part.split()) for part in axis.split("|")) for axis in axes)
    return Layout(theirs, tuple(tuple(ours.split()) for ours in right.split(",")))


def _size(part: Part, sizes: Sizes) -> int:
    return math.prod(sizes[letter] for letter in part)
