"""A dry run says what the run would cost, and leaves nothing behind."""

import dataclasses
from pathlib import Path

import pytest

from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.training import dry_run
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.dry_run import Cost, cost_rows
from jaxgpt.training.trainer import Trainer
from tests.runs import jaxgpt, steps_saved, write_text

TINY = dataclasses.replace(TrainConfig.preset("tiny"), batch_size=4, mesh=MeshConfig(1, 1, allow_idle=True))
FLAGS = ("--model.num-layers", "1", "--eval-batches", "1", "--dry-run")


def test_a_dry_run_writes_nothing_and_tells_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = write_text(tmp_path / "text.txt")
    outcome = jaxgpt("train", "tiny", *FLAGS, "--data.source", text)
    assert (outcome.code, outcome.err) == (0, "")
    assert list(tmp_path.iterdir()) == [text]
    assert [line.split()[0] for line in outcome.out.splitlines()[-5:]] == ["step", "time", "memory", "disk", "nothing"]
    assert "(median of 5)" in outcome.out


def test_a_long_step_is_predicted_from_one_of_fewer_sequences(monkeypatch):
    trainer = Trainer(TINY, data=list(range(20)) * 40)
    assert dry_run._smaller(trainer) is trainer
    monkeypatch.setattr(dry_run, "LONG_STEP", 1)
    assert dry_run._smaller(trainer).config == dataclasses.replace(trainer.config, batch_size=1)
    cost = Cost(60.0, 2.0, 30.0, 1, 10**9, 10**9, 10**9, 10**9)
    told = cost_rows(TINY, TINY.mesh.make(), cost, 40, Path("runs"))["step"]
    assert told == "2.00 s: 64 tokens/s (predicted: 5 steps of 1 of the 4 sequences were timed)"


@pytest.mark.slow
def test_a_dry_run_of_a_run_leaves_it_as_it_was(trained):
    before = (trained / "metrics.jsonl").read_bytes(), steps_saved(trained)
    outcome = jaxgpt("train", "--resume", trained, "--steps", 300, "--dry-run")
    assert outcome.code == 0, outcome.err
    assert "100 steps" in outcome.out  # 200 are done
    assert ((trained / "metrics.jsonl").read_bytes(), steps_saved(trained)) == before


def test_hours_are_steps_and_validations_and_compiling(tmp_path):
    cost = Cost(60.0, 2.0, 30.0, rows=4, needed=2 * 10**9, state=10**9, peak=3 * 10**9, saved=10**9)
    config = dataclasses.replace(TINY, steps=3600, eval_every=1000)
    rows = cost_rows(config, TINY.mesh.make(), cost, 3600, tmp_path)
    assert rows["step"] == "2.00 s: 64 tokens/s (median of 5)"
    assert rows["time"] == "2 h 3 min: 3,600 steps 2 h 0 min, 5 validations 2 min 30 s, compiling 1 min 0 s"
    assert rows["memory"].startswith("2 GB in a step, 1 GB of it state; at most 3 GB were in use; this machine has")
    assert rows["disk"].startswith("3 checkpoints of 1 GB; ")


def test_the_utilisation_is_told_by_both_formulas_where_the_peak_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "utilisation_per_token", lambda *_: {"mfu": 0.005, "mfu_causal": 0.004})
    cost = Cost(60.0, 2.0, 30.0, 4, 10**9, 10**9, 10**9, 10**9)
    rows = cost_rows(TINY, TINY.mesh.make(), cost, 40, tmp_path)
    assert rows["step"] == "2.00 s: 64 tokens/s, MFU 32.0 % (25.6 causal) (median of 5)"


@pytest.mark.parametrize("flag", ["--run", "--data.source"])
def test_a_dry_run_refuses_what_a_run_would(flag, tmp_path):
    text = write_text(tmp_path / "text.txt")
    given = {"--data.source": text, "--run": tmp_path / "run"} | {flag: tmp_path if flag == "--run" else "nowhere"}
    outcome = jaxgpt("train", "tiny", "--dry-run", *(word for pair in given.items() for word in pair))
    assert outcome.code == 2


def test_a_step_that_does_not_fit_is_told_with_the_cure(tmp_path):
    cost = Cost(60.0, 2.0, 30.0, 4, 10**15, 10**9, 10**9, 10**9)
    assert ": too little, make --batch-size smaller" in cost_rows(TINY, TINY.mesh.make(), cost, 40, tmp_path)["memory"]
