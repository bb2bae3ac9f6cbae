"""HellaSwag (Zellers et al. 2019): how does a described scene go on?"""

import re

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.multiple_choice import Question, question, score_questions
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Published, Task


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """Two protocols, which see different texts."""
    rows = data.jsonl()
    plain = [question(row["ctx"], row["endings"], int(row["label"])) for row in rows]
    by_token = score_questions(scorer, plain, ("acc_token",))
    cleaned = score_questions(scorer, [lm_eval_question(row) for row in rows], ("acc", "acc_norm"))
    return Outcome(by_token.measures | cleaned.measures, by_token.examples)


def lm_eval_question(row: dict) -> Question:
    """With the activity's label, and without the marks that WikiHow's pages left."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return question(clean(context), [clean(ending) for ending in row["endings"]], int(row["label"]))


def clean(text: str) -> str:
    """Titles become sentences, other text in brackets goes."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


HELLASWAG = Task(
    "hellaswag",
    "10,042 scenes of the validation set, four endings each, no examples before. acc_token (llm.c): the ending with "
    "the largest mean log-likelihood per token after the context as it is. acc and acc_norm (lm-eval): text cleaned "
    "and led by the activity's label; the sum, and the sum by character of the ending.",
    (
        TaskFile(
            "hellaswag_val.jsonl",
            "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
            "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588",
        ),
    ),
    (
        Published("acc_token", "llm.c", (0.2955, 0.3752, 0.4320, 0.4889)),
        Published("acc", "llm.c, by lm-eval", (0.2892, None, None, 0.4004)),
        Published("acc_norm", "llm.c, by lm-eval", (0.3114, None, None, 0.5089)),
    ),
    score,
)
