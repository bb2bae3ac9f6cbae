"""Standard evaluations while a model trains."""

import dataclasses
import hashlib
import json

import pytest

from jaxgpt.evaluation.tasks.run import TASKS
from tests.runs import jaxgpt, write_text
from tests.training.test_metrics import events


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """A run on a small text, and a task file known by its own hash."""
    content = b"".join(json.dumps({"text": f"abcd efgh {word}"}).encode() + b"\n" for word in ("ijkl", "abcd", "efgh"))
    (tmp_path / "lambada_test.jsonl").write_bytes(content)
    file = dataclasses.replace(TASKS["lambada"].files[0], sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(TASKS, "lambada", dataclasses.replace(TASKS["lambada"], files=(file,)))
    text = ("--data.source", write_text(tmp_path / "text.txt"), "--steps", 3, "--eval-every", 3, "--log-every", 100)
    small = ("--model.num-layers", 1, "--sample-tokens", 0, "--run", tmp_path / "run")
    return (*text, *small, "--eval-tasks", "lambada", "--eval-tasks-every", 2, "--eval-tasks-data", tmp_path)


def test_tasks_go_into_the_metrics_of_their_steps_and_of_the_last(flags, tmp_path):
    outcome = jaxgpt("train", "tiny", *flags)
    assert outcome.code == 0, outcome
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    asked = {line["step"]: line["lambada_ppl"] for line in lines if "lambada_ppl" in line}
    assert list(asked) == [2, 3]
    assert asked[2] != asked[3]
    assert [line["step"] for line in lines if "val_loss" in line] == [0, 3]
    tags = {value.tag for event in events(tmp_path / "run") for value in event.summary.value}
    assert {"lambada_acc", "lambada_ppl"} <= tags


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--eval-tasks", "lambda"), "there is no task 'lambda'; did you mean 'lambada'?"),
        (("--eval-tasks", "lambada,hellaswag"), "has no hellaswag_val.jsonl"),
        (("--eval-tasks", "piqa"), "has no physicaliqa-train-dev.zip"),
        (("--eval-tasks-limit", 0), "eval_tasks_limit=0 must be at least 1"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_before_training(flags, tmp_path, changes, message):
    outcome = jaxgpt("train", "tiny", *flags, *changes)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
