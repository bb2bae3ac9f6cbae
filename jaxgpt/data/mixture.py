"""Several sources in given proportions, row by row."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgpt.errors import UserError

PERIOD = 10_000
"""Rows after which the counts are exact and the pattern begins again: weights count in ten-thousandths."""


class Mixture:
    """Token arrays and their weights. Its length is the tokens of all; rows are drawn from each by `source_of`."""

    def __init__(self, sources: Sequence[tuple[Any, float]]) -> None:
        self.sources = [tokens for tokens, _ in sources]
        self.counts = _rounded(np.array([weight for _, weight in sources]))
        self.pattern = _pattern(self.counts)
        self.rank = np.empty(PERIOD, np.int64)
        for number in range(len(self.sources)):
            own = self.pattern == number
            self.rank[own] = np.arange(own.sum())

    def __len__(self) -> int:
        return sum(len(tokens) for tokens in self.sources)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise UserError("the rows of a mixture are drawn, and are no one text: name one of its sources by --data")

    def source_of(self, row: int) -> tuple[int, int]:
        """Which source row number `row` is from, and which of its own rows it is.

        >>> half = Mixture([(np.arange(9), 1), (np.arange(9), 1)])
        >>> [half.source_of(row) for row in range(4)]
        [(0, 0), (1, 0), (0, 1), (1, 1)]
        """
        period, place = divmod(row, PERIOD)
        source = int(self.pattern[place])
        return source, period * int(self.counts[source]) + int(self.rank[place])


def parse_mixture(texts: Sequence[str]) -> dict[str, float]:
    """SOURCE=WEIGHT, ... as a table. Weights need not sum to 1.

    Raises:
        UserError: One is not of that form, its weight is not above 0, or a source comes twice.
    """
    weights: dict[str, float] = {}
    for text in texts:
        source, _, weight = text.rpartition("=")
        try:
            weights[source] = float(weight)
        except ValueError:
            raise UserError(f"data.mixture={text!r} must be SOURCE=WEIGHT, such as fineweb=0.7") from None
        if not source or not 0 < weights[source] < float("inf"):
            raise UserError(f"data.mixture={text!r} must name a source, and its weight must be above 0")
    if len(weights) < len(texts):
        raise UserError(f"data.mixture={' '.join(texts)!r} names a source twice: add up its weights")
    return weights


def _rounded(weights: np.ndarray) -> np.ndarray:
    """Rows of each source in a period: whole numbers that sum to it (largest remainders)."""
    exact = weights / weights.sum() * PERIOD
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: PERIOD - counts.sum()]] += 1
    if not counts.all():
        raise UserError(f"data.mixture weights differ by more than {PERIOD} to 1: leave the smallest source out")
    return counts


def _pattern(counts: np.ndarray) -> np.ndarray:
    """The source of each row of a period: after any number of rows each has its share within one row.

    Tijdeman (1980), The chairman assignment problem: of the sources that have begun to lack a row, the one that would
    lack a whole row first.
    """
    shares, sources = counts / PERIOD, len(counts)
    slack = 1 / (2 * sources - 2) if sources > 1 else 0.0
    given, pattern = np.zeros(sources), np.empty(PERIOD, np.int64)
    for row in range(PERIOD):
        due = np.where(shares * (row + 1) - given >= slack - 1e-9, (1 - slack + given) / shares, np.inf)
        pattern[row] = due.argmin()
        given[pattern[row]] += 1
    return pattern
