"""PIQA (Bisk et al. 2020): which of two ways reaches a practical goal?"""

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.multiple_choice import question, score_questions
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Task

FOLDER = "physicaliqa-train-dev"


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """Questions and labels are two files of equally many lines."""
    rows = data.jsonl(f"{FOLDER}/dev.jsonl")
    labels = data.text(f"{FOLDER}/dev-labels.lst").split()
    questions = [
        question(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], int(label))
        for row, label in zip(rows, labels, strict=True)
    ]
    return score_questions(scorer, questions, ("acc", "acc_norm"))


PIQA = Task(
    "piqa",
    "1,838 questions of the validation set, no examples before: 'Question: …\\nAnswer:' and each solution. acc: the "
    "largest log-likelihood; acc_norm: by character of the solution (lm-eval's piqa).",
    (
        TaskFile(
            "physicaliqa-train-dev.zip",
            "https://storage.googleapis.com/ai2-mosaic/public/physicaliqa/physicaliqa-train-dev.zip",
            "54d32a04f59a7e354396f321723c8d7ec35cc6b08506563d8d1ffcc15ce98ddd",
            (f"{FOLDER}/dev.jsonl", f"{FOLDER}/dev-labels.lst"),
        ),
    ),
    (),
    score,
)
