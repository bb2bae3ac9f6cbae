"""WinoGrande (Sakaguchi et al. 2019): to whom does the sentence refer?"""

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.multiple_choice import Question, score_questions
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, Task


def score(scorer: Scorer, data: TaskData) -> Outcome:
    """Partial evaluation (Trinh & Le 2018): the option stands in the context, what comes after it is scored."""
    questions = []
    for row in data.jsonl("winogrande_1.1/dev.jsonl"):
        before, after = row["sentence"].split("_", 1)
        rest = " " + after.strip()
        choices = [(before + row[name], rest) for name in ("option1", "option2")]
        questions.append(Question(choices, int(row["answer"]) - 1, [len(rest), len(rest)]))
    return score_questions(scorer, questions, ("acc",))


WINOGRANDE = Task(
    "winogrande",
    "1,267 sentences of the validation set, no examples before. Each option is put in, and the rest of the sentence "
    "is scored: acc is whether the right option makes it likelier (lm-eval's winogrande).",
    (
        TaskFile(
            "winogrande_1.1.zip",
            "https://storage.googleapis.com/ai2-mosaic/public/winogrande/winogrande_1.1.zip",
            "3619ab104d8be2977b25c90ff420cb42d491707dcc75362a1e5d22bc082b7318",
            ("winogrande_1.1/dev.jsonl",),
        ),
    ),
    (),
    score,
)
