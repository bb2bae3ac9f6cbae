"""Runs standard evaluations by name."""

import difflib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxgpt.errors import UserError
from jaxgpt.evaluation.tasks.arc_easy import ARC_EASY
from jaxgpt.evaluation.tasks.blimp import BLIMP
from jaxgpt.evaluation.tasks.core import CORE
from jaxgpt.evaluation.tasks.enwik8 import ENWIK8, TEXT8
from jaxgpt.evaluation.tasks.files import TaskData
from jaxgpt.evaluation.tasks.hellaswag import HELLASWAG
from jaxgpt.evaluation.tasks.lambada import LAMBADA, LAMBADA_OPENAI
from jaxgpt.evaluation.tasks.piqa import PIQA
from jaxgpt.evaluation.tasks.ptb import PTB
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Measure, Outcome, Task, published, size_of
from jaxgpt.evaluation.tasks.wikitext import WIKITEXT2, WIKITEXT103
from jaxgpt.evaluation.tasks.winogrande import WINOGRANDE

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        HELLASWAG,
        LAMBADA,
        LAMBADA_OPENAI,
        WIKITEXT103,
        WIKITEXT2,
        PTB,
        ENWIK8,
        TEXT8,
        BLIMP,
        ARC_EASY,
        PIQA,
        WINOGRANDE,
        CORE,
    )
}


class Row(NamedTuple):
    """One measure of a model beside what was published."""

    task: str
    metric: str
    ours: float
    standard_error: float | None
    published: float | None
    """For OpenAI's weights of this size. None: not published, or the model has none of their sizes."""
    published_by: str | None
    examples: int
    truncated: int
    """Contexts that did not fit the model, and lost their beginning."""
    seconds: float


def find_tasks(names: str) -> list[Task]:
    """Tasks by their names with commas between. Raises UserError on an unknown one, naming the nearest."""
    found = []
    for name in (name.strip() for name in names.split(",")):
        if name not in TASKS:
            close = difflib.get_close_matches(name, TASKS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(TASKS)}"
            raise UserError(f"there is no task {name!r}; {hint}")
        found.append(TASKS[name])
    return found


def check_files(tasks: Iterable[Task], folder: Path | None) -> None:
    """Fetch what is missing. Raises UserError where a file of a task is not there, or is not the published one."""
    for task in tasks:
        try:
            TaskData(task.files, folder).check()
        except UserError as error:
            raise UserError(f"task {task.name}: {error}") from error


def run_task(task: Task, scorer: Scorer, folder: Path | None = None) -> tuple[Outcome, list[Row]]:
    """A model's numbers on one task. Raises UserError where its files or characters do not allow it."""
    if scorer.limit is not None and scorer.limit < 1:
        raise UserError(f"limit={scorer.limit} asks nothing: use at least 1, or none")
    began, cut_before = time.perf_counter(), scorer.truncated
    try:
        outcome = task.score(scorer, TaskData(task.files, folder))
    except UserError as error:
        raise UserError(f"task {task.name}: {error}") from error
    seconds = time.perf_counter() - began
    return outcome, list(_rows(task, outcome, scorer, scorer.truncated - cut_before, seconds))


def _rows(task: Task, outcome: Outcome, scorer: Scorer, truncated: int, seconds: float) -> Iterator[Row]:
    config = scorer.model.config
    size = size_of(config)
    for metric, (value, error) in outcome.measures.items():
        known = published(task, metric, config)
        number = None if known is None or size is None else known.values[size]
        by = None if known is None or number is None else known.by
        yield Row(task.name, metric, value, error, number, by, outcome.examples, truncated, seconds)


__all__ = ["TASKS", "Measure", "Row", "check_files", "find_tasks", "run_task"]
