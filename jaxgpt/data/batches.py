"""Batches: a pure function from (seed, step) to token ids."""

from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jaxgpt.data.mixture import Mixture
from jaxgpt.data.row_order import BlockShuffled, RowOrder, Shuffled, Version01
from jaxgpt.data.tokens import ring_pieces
from jaxgpt.errors import UserError

Order = Literal["every-token", "v0.1"]


class Batches:
    """`batches(step)` is one int32 [batch_size, context_length + 1] array, on every machine and in any order of asking.

    An epoch passes once over every token: windows of context_length tokens (and the one before them) lie end to end,
    the text being a ring, and are shuffled. Where an epoch ends within a window, the next goes on, so that it cuts the
    text at other places. Inputs are a row without its last token, targets without its first.

    Args:
        tokens: Token ids [N], as an array, as Tokens, or as a Mixture.
        batch_size: Rows of a batch.
        context_length: Tokens of a row, less one.
        seed: Of the order.
        order: `v0.1`: as version 0.1 ordered windows, the last tokens of the text left out.
        block_shuffle: Shuffle blocks of about a megabyte, and windows only among 16 of them: for slow disks.
        vocab_size: A row with a larger id is refused.

    Raises:
        UserError: There are fewer than context_length + 1 tokens.

    Example:
        >>> from jaxgpt import Batches
        >>> batches = Batches(np.arange(100), batch_size=2, context_length=4, seed=0)
        >>> batches(7).shape, bool((batches(7) == batches(7)).all())
        ((2, 5), True)
    """

    def __init__(
        self,
        tokens: Any,
        batch_size: int,
        context_length: int,
        seed: int,
        *,
        order: Order = "every-token",
        block_shuffle: bool = False,
        vocab_size: int | None = None,
    ) -> None:
        self.tokens, self.batch_size, self.context_length, self.seed = tokens, batch_size, context_length, seed
        self.vocab_size = vocab_size
        sources = tokens.sources if isinstance(tokens, Mixture) else [tokens]
        for source in sources:
            check_length(source, context_length)
        made: type[RowOrder] = Version01 if order == "v0.1" else BlockShuffled if block_shuffle else Shuffled
        seeds = [(seed,)] if len(sources) == 1 else [(seed, number) for number in range(len(sources))]
        self._orders = [made(len(source), context_length, own) for source, own in zip(sources, seeds, strict=True)]
        self._sources = sources

    def __call__(self, step: int, rows: slice = slice(None)) -> Int[np.ndarray, "B T+1"]:
        """The batch of a step, or only some of its rows, such as one host's."""
        chosen = range(step * self.batch_size, (step + 1) * self.batch_size)[rows]
        return np.stack([self.row(i) for i in chosen])

    def row(self, index: int) -> Int[np.ndarray, "T+1"]:
        """One row of the endless sequence of rows that batches are cut from."""
        source = 0
        if isinstance(self.tokens, Mixture):
            source, index = self.tokens.source_of(index)
        tokens, start = self._sources[source], self._orders[source].start(index)
        parts = [tokens[piece] for piece in ring_pieces(start, self.context_length + 1, len(tokens))]
        row = np.concatenate(parts).astype(np.int32)
        if self.vocab_size is not None and row.max() >= self.vocab_size:
            raise UserError(
                f"the data hold token {row.max()} near place {start:,}, and the model has {self.vocab_size}: "
                "prepare them again, or name the tokenizer that they were made with"
            )
        return row


def eval_batches(tokens: Any, batch_size: int, context_length: int, count: int) -> Int[np.ndarray, "N B T+1"]:
    """At most `count` batches, spread evenly from the first token to the last; they overlap only in a short text."""
    check_length(tokens, context_length)
    last = len(tokens) - context_length - 1
    most = max(1, (len(tokens) - 1) // context_length // batch_size)
    total = min(count, most) * batch_size
    starts = [i * last // max(1, total - 1) for i in range(total)]
    rows = np.stack([np.asarray(tokens[start : start + context_length + 1], np.int32) for start in starts])
    return rows.reshape(-1, batch_size, context_length + 1)


def check_length(tokens: Any, context_length: int) -> None:
    """Raise UserError where there are not enough tokens for one row."""
    if len(tokens) <= context_length:
        raise UserError(
            f"the text has {len(tokens)} tokens, and one example needs context_length + 1 = {context_length + 1}: "
            "add text, or choose a shorter context"
        )
