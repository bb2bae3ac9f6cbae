"""How well a model predicts a text."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from jaxgpt.data import TokenData, eval_batches
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import mean_loss


class Evaluation(NamedTuple):
    """What a model makes of a text."""

    loss: float
    """Nats per token."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float
    """Comparable between tokenizers; the text's UTF-8 bytes count."""
    tokens: int
    """Predicted."""


def evaluate(
    model: GPT, tokens: Integer[np.ndarray, " N"], bytes_per_token: float, batch_size: int = 8, count: int | None = None
) -> Evaluation:
    """The mean loss over windows of context_length tokens that cover the text, or `count` batches spread over it.

    Raises ValueError where the text is shorter than one window.
    """
    batches = eval_batches(tokens, batch_size, model.config.context_length, count or len(tokens))
    loss = mean_loss(model, batches)
    predicted = batches[:, :, 1:].size
    return Evaluation(loss, math.exp(min(loss, 700.0)), loss / math.log(2) / bytes_per_token, predicted)


def split_tokens(data: TokenData, split: str) -> tuple[Integer[np.ndarray, " N"], float]:
    """The tokens of one part of a corpus, or of all of it, and how many bytes of text a token stands for."""
    parts = ("train", "validation") if split == "all" else (split,)
    counts = [data.manifest["splits"][part] for part in parts]
    tokens = np.concatenate([getattr(data, part) for part in parts])
    return tokens, sum(part["bytes"] for part in counts) / len(tokens)
