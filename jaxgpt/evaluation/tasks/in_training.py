"""Standard evaluations of a model while it trains."""

import dataclasses
from pathlib import Path

from jaxgpt.data import Tokenizer
from jaxgpt.evaluation.tasks.run import check_files, find_tasks, run_task
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Task
from jaxgpt.model.gpt import GPT


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """Calling it with a model gives a number for each metric of each task, such as hellaswag_acc_norm.

    Every call asks the same questions, so that numbers of one run can be compared. In a run of several processes all
    of them call it.
    """

    tasks: tuple[Task, ...]
    tokenizer: Tokenizer
    limit: int | None
    """Questions of each task. None: all."""
    folder: Path | None

    @classmethod
    def create(
        cls, names: str, tokenizer: Tokenizer, *, limit: int | None = None, folder: Path | None = None
    ) -> "TaskMetrics":
        """The tasks with these names, with commas between; their files are fetched and checked now.

        Raises UserError on an unknown task, and where a file is missing or is not the published one.
        """
        tasks = tuple(find_tasks(names))
        check_files(tasks, folder)
        return cls(tasks, tokenizer, limit, folder)

    def __call__(self, model: GPT) -> dict[str, float]:
        scorer = Scorer(model, self.tokenizer, limit=self.limit)
        rows = [row for task in self.tasks for row in run_task(task, scorer, self.folder)[1]]
        return {f"{row.task}_{row.metric}": row.ours for row in rows}
