"""A run is the same run however often it was stopped: real processes, really killed."""

import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from jaxgpt.training.metrics import Reporter
from jaxgpt.training.run import is_run
from tests.runs import EVAL_EVERY, FLAGS, STEPS, assert_same_run, jaxgpt, lines, start, steps_saved, wait_until


def launch(trained, folder):
    """The run that `trained` is, once more from the start."""
    return start("train", "tiny", *FLAGS, "--data.source", trained.parent / "text.txt", "--run", folder)


def resume(folder):
    outcome = jaxgpt("train", "--resume", folder)
    assert outcome.code == 0, outcome
    return outcome


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(trained, tmp_path):
    folder = tmp_path / "run"
    process = launch(trained, folder)
    wait_until((folder / "config.json").exists, process)
    process.kill()
    process.communicate()
    assert steps_saved(folder) == [] if (folder / "checkpoints").exists() else True
    resume(folder)
    assert_same_run(folder, trained)


def test_a_run_killed_after_a_checkpoint_goes_on_to_the_bit(trained, tmp_path):
    folder = tmp_path / "run"
    process = launch(trained, folder)
    wait_until((folder / "checkpoints" / str(EVAL_EVERY)).exists, process)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "checkpoints" / str(EVAL_EVERY)).exists()
    assert f"resuming after step {steps_saved(folder)[-1]}" in resume(folder).out
    assert_same_run(folder, trained)


def test_a_run_told_to_stop_saves_and_says_how_to_go_on(trained, tmp_path):
    folder = tmp_path / "a run"  # a name that the shell would take for two
    process = launch(trained, folder)
    wait_until(lambda: (folder / "metrics.jsonl").exists() and len(lines(folder)) > 4, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    check_was_stopped(folder, out, "SIGTERM")
    resume(folder)
    assert_same_run(folder, trained)


def test_an_interrupted_run_saves_and_says_how_to_go_on(trained, tmp_path, monkeypatch):
    usual = Reporter.report

    def interrupt(self, step, *rest):
        usual(self, step, *rest)
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Reporter, "report", interrupt)
    folder = tmp_path / "run"
    outcome = jaxgpt("train", "tiny", *FLAGS, "--data.source", trained.parent / "text.txt", "--run", folder)
    assert (outcome.code, outcome.err) == (130, "")
    check_was_stopped(folder, outcome.out, "SIGINT")
    assert steps_saved(folder) == [8]  # the 7th's numbers are fetched during step 8, after which it stops


def check_was_stopped(folder, out, name):
    step, command = re.search(rf"stopped by {name} after step (\d+); go on with: (.*)", out).groups()
    assert steps_saved(folder)[-1] == int(step) == lines(folder)[-1]["step"] < STEPS
    assert shlex.split(command) == ["jaxgpt", "train", "--resume", str(folder)]


def test_a_finished_run_resumed_is_left_as_it_is(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    resume(folder)
    assert_same_run(folder, trained)


KILLS = 20


def wait_for_a_save(folder, process):
    """Until a checkpoint is being written, or the process has ended."""
    while process.poll() is None and not list((folder / "checkpoints").glob("*tmp*")):
        time.sleep(0.001)


@pytest.mark.slow
def test_twenty_kills_at_any_moment_lose_nothing(trained, tmp_path):
    """At start-up, in a step, in a validation, wherever chance has it; every other one in the middle of a save."""
    folder, chance = tmp_path / "run", random.Random(0)
    killed, seen, in_a_save = 0, [], 0
    while killed < KILLS:
        if not is_run(folder):  # killed before there was anything to go on with
            shutil.rmtree(folder, ignore_errors=True)
        process = start("train", "--resume", folder) if is_run(folder) else launch(trained, folder)
        if killed % 2:
            wait_for_a_save(folder, process)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=chance.uniform(2, 9))
        if process.poll() is None:
            process.kill()
            process.communicate()
            killed += 1
            in_a_save += bool(list((folder / "checkpoints").glob("*tmp*")))
            saved = steps_saved(folder) if (folder / "checkpoints").exists() else []
            assert saved[-1:] >= seen[-1:]  # a whole checkpoint stays
            seen = saved
        else:
            assert process.returncode == 0, process.communicate()
            process.communicate()
            assert_same_run(folder, trained)
            shutil.rmtree(folder)
            seen = []
    assert in_a_save >= KILLS // 4
    if is_run(folder):
        resume(folder)
        assert_same_run(folder, trained)


@pytest.mark.slow
def test_thirty_kills_while_a_run_begins_leave_a_folder_that_starts_or_goes_on(trained, tmp_path):
    """From the process's first moment, or from that of its folder; with fresh weights, and with others' (step 0)."""
    text, chance, was_run = trained.parent / "text.txt", random.Random(0), []
    flags = ("--model.num-layers", 1, "--steps", 4, "--eval-every", 2, "--sample-tokens", 0, "--data.source", text)
    starts = [("train", "tiny", *flags), ("train", "tiny", *flags, "--init", trained)]
    for number, command in enumerate(starts):
        assert jaxgpt(*command, "--run", tmp_path / f"whole {number}").code == 0
    for kill in range(30):
        number, folder = kill % 2, tmp_path / f"killed {kill}"
        process = start(*starts[number], "--run", folder)
        if kill % 3:
            wait_until(folder.exists, process)
        time.sleep(chance.uniform(0, 2) * (0.2 if kill % 3 == 1 else 1))
        process.kill()
        process.communicate()
        was_run.append(is_run(folder))
        outcome = jaxgpt("train", "--resume", folder) if is_run(folder) else jaxgpt(*starts[number], "--run", folder)
        assert outcome.code == 0, (kill, outcome)
        assert_same_run(folder, tmp_path / f"whole {number}")
    assert {*was_run} == {False, True}
