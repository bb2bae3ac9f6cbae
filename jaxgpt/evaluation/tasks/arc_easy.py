"""ARC-Easy (Clark et al. 2018): science questions of grade schools."""

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.multiple_choice import question, score_questions
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Task


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """The answers are scored as texts, never as letters."""
    questions = []
    for row in data.jsonl("ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl"):
        choices = row["question"]["choices"]
        gold = [choice["label"] for choice in choices].index(row["answerKey"])
        context = f"Question: {row['question']['stem']}\nAnswer:"
        questions.append(question(context, [choice["text"] for choice in choices], gold))
    return score_questions(scorer, questions, ("acc", "acc_norm"))


ARC_EASY = Task(
    "arc-easy",
    "2,376 questions of the test set, no examples before: 'Question: …\\nAnswer:' and each answer's text. acc: the "
    "largest log-likelihood; acc_norm: by character of the answer (lm-eval's arc_easy).",
    (
        TaskFile(
            "ARC-V1-Feb2018.zip",
            "https://s3-us-west-2.amazonaws.com/ai2-website/data/ARC-V1-Feb2018.zip",
            "6d2d5ab50b2ceec6ba5f79c921be77cf2de712ea25a2b3f4fff3acc101cecfa0",
            ("ARC-V1-Feb2018-2/ARC-Easy/ARC-Easy-Test.jsonl",),
        ),
    ),
    (),
    score,
)
