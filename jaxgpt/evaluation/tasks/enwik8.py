"""enwik8 and text8 (Mahoney 2006): Wikipedia with its markup, and its bare letters, by bits per byte."""

import math

from jaxgpt.evaluation.tasks.files import TaskData, TaskFile
from jaxgpt.evaluation.tasks.scorer import Scorer
from jaxgpt.evaluation.tasks.task import Measure, Outcome, Published, Task

TEST_BYTES = 5_000_000
"""The end of the file that everybody tests on."""


def score_enwik8(scorer: Scorer, data: TaskData) -> Outcome:
    return _score(scorer, data.content("enwik8"), "bits_per_byte")


def score_text8(scorer: Scorer, data: TaskData) -> Outcome:
    return _score(scorer, data.content("text8"), "bits_per_character")


def _score(scorer: Scorer, content: bytes, metric: str) -> Outcome:
    text = content[-TEST_BYTES:].decode(errors="ignore")  # the cut may go through a character
    nats, windows = scorer.nats_per_unit([text], len(text.encode()))
    error = None if nats.standard_error is None else nats.standard_error / math.log(2)
    return Outcome({metric: Measure(nats.value / math.log(2), error)}, windows)


ENWIK8 = Task(
    "enwik8",
    "The last 5,000,000 bytes as one text; bits per byte.",
    (
        TaskFile(
            "enwik8.zip",
            "http://mattmahoney.net/dc/enwik8.zip",
            "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
            ("enwik8",),
        ),
    ),
    (Published("bits_per_byte", "the paper, table 3", (1.16, 1.01, 0.97, 0.93)),),
    score_enwik8,
)
TEXT8 = Task(
    "text8",
    "The last 5,000,000 characters (a to z and blanks) as one text; bits per character.",
    (
        TaskFile(
            "text8.zip",
            "http://mattmahoney.net/dc/text8.zip",
            "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
            ("text8",),
        ),
    ),
    (Published("bits_per_character", "the paper, table 3", (1.17, 1.06, 1.02, 0.98)),),
    score_text8,
)
