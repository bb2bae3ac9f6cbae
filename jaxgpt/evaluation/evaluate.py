"""How well a model predicts a text."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxgpt.config import GPTConfig
from jaxgpt.data import TokenData
from jaxgpt.data.tokens import Tokens, find_token, join_tokens
from jaxgpt.evaluation.scoring import BatchSize, document_windows, score_windows
from jaxgpt.evaluation.windows import Window
from jaxgpt.model.gpt import GPT

Text = Integer[np.ndarray, "_"] | Tokens
WINDOWS = 1 << 12
"""Windows whose tokens' log-probabilities are held at once."""


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
    tokens: Text,
    bytes_per_token: float | None = None,
    batch_size: BatchSize = "auto",
    *,
    stride: int | None = None,
    end_of_text: int | None = None,
    max_windows: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """The mean loss of a text: every token but the first is predicted exactly once, whatever the batch size or mesh.

    Windows of context_length tokens move on by `stride` (None: by whole windows). With `max_windows`, only so many of
    them, spread evenly over the text. With `end_of_text`, each document that such a token begins is read alone, as by
    a model that was trained with data.mask_documents. A text on the disk stays there.

    Raises UserError where the text has fewer than two tokens, or one that is not in the vocabulary.

    Example:
        >>> import jaxgpt, numpy as np
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> jaxgpt.evaluate(model, np.arange(97)).tokens
        96
    """
    windows = text_windows(model.config, tokens, stride, end_of_text)
    if max_windows is not None and max_windows < len(windows):
        windows = [windows[i * len(windows) // max_windows] for i in range(max_windows)]
    sums, counts = (np.concatenate(part) for part in zip(*_summed(model, windows, batch_size, progress), strict=True))
    loss = float(-sums.sum() / counts.sum())
    bits = None if bytes_per_token is None else loss / math.log(2) / bytes_per_token
    return Evaluation(loss, math.exp(min(loss, 700.0)), bits, int(counts.sum()), ratio_error(-sums, counts))


def text_windows(
    config: GPTConfig, tokens: Text, stride: int | None = None, end_of_text: int | None = None
) -> list[Window]:
    """The windows of a text, or with `end_of_text` of each of its documents."""
    texts = [tokens] if end_of_text is None else _documents(tokens, end_of_text)
    return [window for group in document_windows(config, texts, stride=stride) for window in group]


def _documents(tokens: Text, end_of_text: int) -> list[Text]:
    """Each document, and the <|endoftext|> after it: every token but the first of all is predicted once."""
    bounds = [0, *(start for start in find_token(tokens, end_of_text).tolist() if start), len(tokens)]
    texts = [tokens[start : end + 1] for start, end in pairwise(bounds)]
    return [text for text in texts if len(text) > 1] or [tokens]


def _summed(
    model: GPT, windows: list[Window], batch_size: BatchSize, progress: Callable[[int], object] | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Log-probabilities and counts of the predicted tokens, of one window after another."""
    for start in range(0, len(windows), WINDOWS):
        scores = score_windows(model, windows[start : start + WINDOWS], batch_size=batch_size, progress=progress)
        sums = [score.logprobs.sum(dtype=np.float64) for score in scores]
        yield np.array(sums), np.array([len(score.logprobs) for score in scores])


def ratio_error(sums: np.ndarray, counts: np.ndarray) -> float | None:
    """The standard error of sums.sum() / counts.sum() over independent groups (Cochran 1977, equation 2.45)."""
    groups = len(sums)
    if groups < 2:
        return None
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(groups / (groups - 1) * (residuals**2).sum()) / counts.sum())


def split_tokens(data: TokenData, split: str) -> tuple[Text, float | None]:
    """The tokens of one part of a corpus, or of all of it, and how many bytes of text a token stands for, if known.

    What is on the disk stays there.
    """
    if split != "all":
        tokens = getattr(data, split)
        return tokens if isinstance(tokens, Tokens) else np.asarray(tokens), data.bytes_per_token_of(split)
    parts = [split_tokens(data, part) for part in ("train", "validation")]
    tokens = join_tokens([part for part, _ in parts])
    sizes = [None if each is None else each * len(part) for part, each in parts]
    return tokens, None if None in sizes else sum(size for size in sizes if size is not None) / len(tokens)
