"""Texts cut into windows that a model can read, each window with the tokens that it has to predict."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxgpt.config import GPTConfig
from jaxgpt.data.tokens import Tokens as TokenArrays
from jaxgpt.errors import UserError

Tokens = Sequence[int] | np.ndarray | TokenArrays
"""Token ids of one text; `as_tokens` checks them."""
Checked = Integer[np.ndarray, "_"] | TokenArrays
PIECE = 1 << 22
"""Tokens that are checked at once: a text on the disk is never in memory as a whole."""


class Window(NamedTuple):
    """A piece of text, all of it read except the last token; tokens[first:] are predicted."""

    tokens: Integer[np.ndarray, " N"]
    first: int
    """At least 1: the first token of a text is predicted from nothing."""


def window_length(config: GPTConfig) -> int:
    """How many tokens a window reads: the context that the model was made for."""
    return config.context_length


def rolling_windows(tokens: Checked, length: int, stride: int) -> list[Window]:
    """Windows that predict every token but the first exactly once.

    The first window predicts up to `length` tokens; each later one predicts `stride` more, and reads as many before
    them as fit into `length`.
    """
    count = len(tokens) - 1
    ends = [*range(min(length, count), count, stride), count]
    begins = [0, *ends[:-1]]
    lows = [max(0, end - length) for end in ends]
    return [
        Window(tokens[low : end + 1], begin + 1 - low)
        for begin, low, end in zip(begins, lows, ends, strict=True)
        if end > begin
    ]


def continuation_window(
    context: Integer[np.ndarray, " N"], continuation: Integer[np.ndarray, " M"], length: int
) -> Window:
    """The window that predicts a continuation; a context too long for it loses its beginning."""
    tokens = np.concatenate([context, continuation])[-(length + 1) :]
    return Window(tokens, len(tokens) - len(continuation))


def as_tokens(texts: Sequence[Tokens], vocab_size: int, name: str) -> list[Checked]:
    """Token ids as arrays; arrays stay as they are. Raises UserError where one is not an id below vocab_size."""
    arrays = [_as_array(text) for text in texts]
    for i, array in enumerate(arrays):
        if len(array.shape) != 1 or not np.issubdtype(array.dtype, np.integer):
            raise UserError(
                f"{name}[{i}] is not a list of token ids but {array.dtype} of shape {array.shape}: "
                "encode the text with the model's tokenizer first"
            )
        for piece in (array[start : start + PIECE] for start in range(0, len(array), PIECE)):
            if 0 <= int(piece.min()) <= int(piece.max()) < vocab_size:
                continue
            wrong = int(piece[(piece < 0) | (piece >= vocab_size)][0])
            raise UserError(
                f"{name}[{i}] holds token {wrong}, which is not in the model's vocabulary of {vocab_size}: "
                "encode the text with the model's own tokenizer"
            )
    return arrays


def _as_array(text: Tokens) -> np.ndarray | TokenArrays:
    if isinstance(text, TokenArrays):
        return text
    return np.asarray(text) if len(text) else np.zeros(0, np.int32)
