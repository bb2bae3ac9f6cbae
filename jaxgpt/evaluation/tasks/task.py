"""What a standard evaluation is made of: its files, its protocol, its numbers as published."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxgpt.config import MODELS, GPTConfig

if TYPE_CHECKING:
    from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
    from jaxgpt.evaluation.tasks.scorer import Scorer

SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")
"""OpenAI's models of 124M, 355M, 774M and 1558M parameters, in the order of published numbers."""


class Published(NamedTuple):
    """Somebody's numbers for OpenAI's weights."""

    metric: str
    by: str
    values: tuple[float | None, float | None, float | None, float | None]
    """In the order of SIZES. None: not published."""


class Measure(NamedTuple):
    """One number of a model on a task."""

    value: float
    standard_error: float | None
    """None: not known, since there is one sample."""


@dataclass(frozen=True)
class Outcome:
    """What a model made of a task."""

    measures: dict[str, Measure]
    """By metric."""
    examples: int
    """Questions, texts or windows scored."""
    details: dict[str, float] = field(default_factory=dict)
    """The numbers that a measure is the mean of, such as those of CORE's tasks."""


@dataclass(frozen=True)
class Task:
    """A standard evaluation."""

    name: str
    protocol: str
    """What the model reads, what counts as right, and how it is averaged."""
    files: "tuple[TaskFile, ...]"
    published: tuple[Published, ...]
    score: "Callable[[Scorer, TaskData], Outcome]"


def published(task: Task, metric: str, config: GPTConfig) -> Published | None:
    """The numbers for a metric, where the model has one of OpenAI's sizes."""
    found = (row for row in task.published if row.metric == metric and size_of(config) is not None)
    return next(found, None)


def size_of(config: GPTConfig) -> int | None:
    """Which of SIZES has as many layers and the width of this model, and GPT-2's vocabulary."""
    if config.vocab_size != MODELS["gpt2"].vocab_size:
        return None
    shapes = [(MODELS[name].num_layers, MODELS[name].d_model) for name in SIZES]
    shape = (config.num_layers, config.d_model)
    return shapes.index(shape) if shape in shapes else None


def mean(values: list[bool] | list[float]) -> Measure:
    """The mean of independent samples, and its standard error."""
    numbers = np.asarray(values, np.float64)
    error = numbers.std(ddof=1) / math.sqrt(len(numbers)) if len(numbers) > 1 else None
    return Measure(float(numbers.mean()), None if error is None else float(error))


def perplexity(nats: Measure) -> Measure:
    """Exp of a mean loss; the error by the slope of exp."""
    value = math.exp(min(nats.value, 700.0))
    return Measure(value, None if nats.standard_error is None else value * nats.standard_error)
