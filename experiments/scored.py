"""Standard evaluations of a model, for the experiments."""

from pathlib import Path
from typing import Any

from jaxgpt.data import Tokenizer
from jaxgpt.evaluation.tasks.run import find_tasks, run_task
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.model.gpt import GPT


def task_scores(
    model: GPT, tokenizer: Tokenizer, tasks: str | None, folder: Path | None, limit: int | None
) -> list[dict[str, Any]]:
    """A row for each metric of each task; none without tasks."""
    if tasks is None:
        return []
    scorer = Scorer(model, tokenizer, limit=limit)
    return [row._asdict() for task in find_tasks(tasks) for row in run_task(task, scorer, folder)[1]]
