"""How well a model predicts a text."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxgpt.data import TokenData
from jaxgpt.evaluation.scoring import BatchSize, document_windows, score_windows
from jaxgpt.model.gpt import GPT


class Evaluation(NamedTuple):
    """What a model makes of a text."""

    loss: float
    """Nats per token."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float | None
    """Comparable between tokenizers; the text's UTF-8 bytes count. None: it is not known how many there are."""
    tokens: int
    """Predicted."""
    standard_error: float | None
    """Of the loss, from the spread between windows. None: there is one window."""


def evaluate(
    model: GPT,
    tokens: Integer[np.ndarray, " N"],
    bytes_per_token: float | None = None,
    batch_size: BatchSize = "auto",
    *,
    stride: int | None = None,
    max_windows: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """The mean loss of a text: every token but the first is predicted exactly once, whatever the batch size or mesh.

    Windows of context_length tokens move on by `stride` (None: by whole windows). With `max_windows`, only so many of
    them, spread evenly over the text.

    Raises UserError where the text has fewer than two tokens, or one that is not in the vocabulary.

    Example:
        >>> import jaxgpt, numpy as np
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> jaxgpt.evaluate(model, np.arange(97)).tokens
        96
    """
    (windows,) = document_windows(model.config, [tokens], stride=stride)
    if max_windows is not None and max_windows < len(windows):
        windows = [windows[i * len(windows) // max_windows] for i in range(max_windows)]
    scores = score_windows(model, windows, batch_size=batch_size, progress=progress)
    sums = np.array([score.logprobs.sum(dtype=np.float64) for score in scores])
    counts = np.array([len(score.logprobs) for score in scores])
    loss = float(-sums.sum() / counts.sum())
    bits = None if bytes_per_token is None else loss / math.log(2) / bytes_per_token
    return Evaluation(loss, math.exp(min(loss, 700.0)), bits, int(counts.sum()), ratio_error(-sums, counts))


def ratio_error(sums: np.ndarray, counts: np.ndarray) -> float | None:
    """The standard error of sums.sum() / counts.sum() over independent groups (Cochran 1977, equation 2.45)."""
    groups = len(sums)
    if groups < 2:
        return None
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / counts.sum())


def split_tokens(data: TokenData, split: str) -> tuple[Integer[np.ndarray, " N"], float | None]:
    """The tokens of one part of a corpus, or of all of it, and how many bytes of text a token stands for, if known."""
    if split != "all":
        return np.asarray(getattr(data, split)), data.bytes_per_token_of(split)
    parts = [split_tokens(data, part) for part in ("train", "validation")]
    tokens = np.concatenate([part for part, _ in parts])
    sizes = [None if each is None else each * len(part) for part, each in parts]
    return tokens, None if None in sizes else sum(size for size in sizes if size is not None) / len(tokens)
