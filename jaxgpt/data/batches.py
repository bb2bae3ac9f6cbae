"""Batches: a pure function from (seed, step) to token ids."""

import numpy as np
from jaxtyping import Int


class Batches:
    """`batches(step)` is one int32 [batch_size, context_length + 1] array, on every machine and in any order of asking.

    An epoch passes once over all windows of context_length + 1 tokens that start context_length apart, shuffled. Inputs
    are a row without its last token, targets without its first. Each epoch cuts the text at other places.
    """

    def __init__(self, tokens: np.ndarray, batch_size: int, context_length: int, seed: int) -> None:
        import grain  # 0.5 s with orbax, which it imports: a run that begins spends them while its weights are drawn

        _check_length(tokens, context_length)
        self.tokens, self.batch_size, self.context_length, self.seed = tokens, batch_size, context_length, seed
        self.windows = max(1, len(tokens) // context_length - 1)
        """Windows per epoch."""
        self._shifts = min(context_length, len(tokens) - self.windows * context_length)
        order = grain.MapDataset.range(self.windows).seed(seed).shuffle().repeat()
        self._rows = order.map_with_index(self._row)

    def __call__(self, step: int, rows: slice = slice(None)) -> Int[np.ndarray, "B T+1"]:
        """The batch of a step, or only some of its rows, such as one host's."""
        chosen = range(step * self.batch_size, (step + 1) * self.batch_size)[rows]
        return np.stack([self._rows[i] for i in chosen])

    def _row(self, index: int, window: int) -> Int[np.ndarray, "T+1"]:
        shift = int(np.random.default_rng((self.seed, index // self.windows)).integers(self._shifts))
        return _window(self.tokens, shift + window * self.context_length, self.context_length)


def eval_batches(tokens: np.ndarray, batch_size: int, context_length: int, count: int) -> Int[np.ndarray, "N B T+1"]:
    """At most `count` batches, spread evenly from the first token to the last; they overlap only in a short text."""
    _check_length(tokens, context_length)
    last = len(tokens) - context_length - 1
    most = max(1, (len(tokens) - 1) // context_length // batch_size)
    total = min(count, most) * batch_size
    starts = [i * last // max(1, total - 1) for i in range(total)]
    rows = np.stack([_window(tokens, start, context_length) for start in starts])
    return rows.reshape(-1, batch_size, context_length + 1)


def _window(tokens: np.ndarray, start: int, context_length: int) -> Int[np.ndarray, "T+1"]:
    return np.asarray(tokens[start : start + context_length + 1], np.int32)


def _check_length(tokens: np.ndarray, context_length: int) -> None:
    if len(tokens) <= context_length:
        raise ValueError(
            f"the text has {len(tokens)} tokens, and one example needs context_length + 1 = {context_length + 1}: "
            "add text, or choose a shorter context"
        )
