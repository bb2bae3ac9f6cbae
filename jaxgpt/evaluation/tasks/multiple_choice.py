"""Questions with several answers, of which the likeliest counts as the model's."""

from typing import NamedTuple

import numpy as np

from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Outcome, mean


class Question(NamedTuple):
    """Choices as context and continuation; the right one's number; each choice's length for acc_norm."""

    choices: list[tuple[str, str]]
    gold: int
    lengths: list[int]


def question(context: str, answers: list[str], gold: int) -> Question:
    """One context, and answers after a blank."""
    return Question([(context, " " + answer) for answer in answers], gold, [len(answer) for answer in answers])


def score_questions(scorer: Scorer, questions: list[Question], metrics: tuple[str, ...]) -> Outcome:
    """The share answered rightly, by the choice of the largest log-likelihood.

    acc: as it is. acc_norm: by character of the answer. acc_token: by token.
    """
    questions = scorer.subset(questions)
    found = iter(scorer.continuations([pair for one in questions for pair in one.choices]))
    right: dict[str, list[bool]] = {metric: [] for metric in metrics}
    for one in questions:
        scores = [next(found) for _ in one.choices]
        logprobs = np.array([score.logprob for score in scores])
        lengths = {"acc": 1, "acc_norm": one.lengths, "acc_token": [score.tokens for score in scores]}
        for metric in metrics:
            right[metric].append(int(np.argmax(logprobs / np.array(lengths[metric]))) == one.gold)
    return Outcome({metric: mean(values) for metric, values in right.items()}, len(questions))
