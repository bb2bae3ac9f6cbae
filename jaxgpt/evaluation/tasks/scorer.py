"""Scores texts, where `jaxgpt.evaluation.scoring` scores tokens."""

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, TypeVar

import numpy as np

from jaxgpt.data import Tokenizer
from jaxgpt.evaluation.evaluate import ratio_error
from jaxgpt.evaluation.scoring import BatchSize, document_windows, loglikelihood, score_windows
from jaxgpt.evaluation.tasks.task import Measure
from jaxgpt.model.gpt import GPT

Item = TypeVar("Item")
Bar = Callable[[str, int], AbstractContextManager[Callable[[int], object] | None]]


def no_bar(what: str, total: int) -> AbstractContextManager[Callable[[int], object] | None]:
    """Shows nothing."""
    del what, total
    return nullcontext()


class Continuation(NamedTuple):
    """A text after another, as the model finds it."""

    logprob: float
    """In nats, over all its tokens."""
    is_greedy: bool
    tokens: int


class Scorer:
    """A model with its tokenizer, and how much of a task it answers."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        batch_size: BatchSize = "auto",
        stride: int | None = None,
        limit: int | None = None,
        bar: Bar = no_bar,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.stride, self.limit, self.bar = batch_size, stride, limit, bar
        self.truncated = 0
        """Contexts so far that did not fit the model, and lost their beginning."""

    def subset(self, items: Sequence[Item]) -> list[Item]:
        """As many items as the limit allows: always the same ones, drawn from all."""
        if self.limit is None or self.limit >= len(items):
            return list(items)
        return [items[i] for i in sorted(random.Random(0).sample(range(len(items)), self.limit))]

    def continuations(self, pairs: Sequence[tuple[str, str]]) -> list[Continuation]:
        """The log-likelihood of each second text after the first."""
        return self.continuation_tokens(encode_pairs(self.tokenizer, pairs))

    def continuation_tokens(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Continuation]:
        """The same of token ids."""
        contexts, continuations = [before for before, _ in pairs], [after for _, after in pairs]
        with self.bar("questions", len(pairs)) as advance:
            scores = loglikelihood(self.model, contexts, continuations, batch_size=self.batch_size, progress=advance)
        self.truncated += sum(score.truncated > 0 for score in scores)
        return [Continuation(score.logprob, score.is_greedy, len(after)) for score, after in zip(scores, continuations)]

    def nats_per_unit(self, documents: Sequence[str], units: int) -> tuple[Measure, int]:
        """The loss of whole documents by words, bytes or other units, and how many windows were read.

        With a limit, only so many windows, spread over the documents; then their loss per token stands for all.
        """
        texts = self.tokenizer.encode_all(list(documents))
        windows = [
            window
            for group in document_windows(
                self.model.config, texts, prefix=self.tokenizer.end_of_text, stride=self.stride
            )
            for window in group
        ]
        total = sum(len(window.tokens) - window.first for window in windows)
        windows = self.subset(windows)
        with self.bar("windows", len(windows)) as advance:
            scores = score_windows(self.model, windows, batch_size=self.batch_size, progress=advance)
        sums = -np.array([score.logprobs.sum(dtype=np.float64) for score in scores])
        counts = np.array([len(score.logprobs) for score in scores])
        error = ratio_error(sums, counts)
        tokens_per_unit = total / units
        return (
            Measure(
                float(sums.sum() / counts.sum() * tokens_per_unit), None if error is None else error * tokens_per_unit
            ),
            len(windows),
        )


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Contexts and continuations as tokens: both encoded as one text, then cut where the context ends.

    Blanks at the context's end go to the continuation, where GPT-2's tokens have them. An empty context becomes
    end_of_text or, where the tokenizer has none, the continuation's first token.
    """
    moved = [(before.rstrip(), before[len(before.rstrip()) :] + after) for before, after in pairs]
    befores = tokenizer.encode_all([before for before, _ in moved])
    wholes = tokenizer.encode_all([before + after for before, after in moved])
    return [_cut(tokenizer.end_of_text, whole, len(before)) for before, whole in zip(befores, wholes, strict=True)]


def _cut(end_of_text: int | None, whole: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    if at == 0 and end_of_text is not None:
        return np.array([end_of_text]), whole
    return whole[: max(1, at)], whole[max(1, at) :]
