"""Several processes that train one model: two of four devices each, over Gloo."""

import re
import signal

import numpy as np
import pytest

from jaxgpt.runtime.watchdog import LOST
from tests.runs import free_port, jaxgpt, lines, start, start_two, state, steps_saved, wait_until, write_text

# With a constant learning rate, a run of 12 steps is the beginning of one of 36.
FLAGS = [
    *("--model.num-layers", "1", "--model.dropout", "0.1", "--batch-size", "16", "--microbatches", "2"),
    *("--optimizer.learning-rate", "3e-3", "--optimizer.final-learning-rate", "3e-3", "--optimizer.warmup-steps", "1"),
    *("--eval-every", "6", "--sample-tokens", "0"),
]
ALONE, TOGETHER = ("--mesh.data", "1", "--mesh.allow-idle"), ("--mesh.data", "2", "--mesh.fsdp", "4")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return ("--data.source", write_text(tmp_path_factory.mktemp("text") / "text.txt"))


@pytest.mark.slow
def test_processes_and_devices_may_change_within_a_run(source, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert jaxgpt("train", "tiny", *FLAGS, *source, "--run", one, "--steps", 18, *ALONE).code == 0

    assert jaxgpt("train", "tiny", *FLAGS, *source, "--run", other, "--steps", 6, *ALONE).code == 0
    processes = start_two("train", "--resume", other, "--steps", 12, *TOGETHER)
    (out, err), (silent, _) = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err
    assert "mesh    1 host, 2 processes, 8 of 8 devices: data 2 x fsdp 4, zero 3" in out
    assert "resuming after step 6" in out
    # Only the first process speaks; Gloo says who is connected, in lines that its threads may mix.
    assert not any(word in silent for word in ("resuming", "mesh", "loss", "done in", "go on with"))
    resumed = jaxgpt("train", "--resume", other, "--steps", 18, *ALONE)
    assert resumed.code == 0, resumed

    assert [line["step"] for line in lines(other)] == list(range(19))
    for name in ("loss", "val_loss"):
        expected, found = ([line[name] for line in lines(run) if name in line] for run in (one, other))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    expected, found = state(one), state(other)
    for path, leaf in found.items():
        if "usual" not in path and ".key.bias" not in path:  # whose gradient is rounding alone
            np.testing.assert_allclose(leaf, expected[path], atol=3e-4, err_msg=path)


@pytest.mark.slow
def test_two_processes_start_from_weights_and_learn_from_a_teacher_as_one_does(trained, source, tmp_path):
    """Weights that are made to fit on shards of which no process holds all."""
    begun = ("--init", trained, "--distill", trained, "--model.num-kv-heads", 2, "--model.context-length", 16)
    flags = ("train", "tiny", *FLAGS[2:], *begun, *source, "--steps", 6)
    one, two = tmp_path / "one", tmp_path / "two"
    assert jaxgpt(*flags, "--run", one, *ALONE).code == 0
    processes = start_two(*flags, "--run", two, "--mesh.data", 1, "--mesh.fsdp", 8)
    (_, err), _ = (process.communicate(timeout=300) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err
    expected, found = ([line["loss"] for line in lines(run)[1:]] for run in (one, two))
    assert expected[0] > 0.001
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def running(folder, processes):
    """Wait until the run has made some steps."""
    metrics = folder / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 3, processes[0])


@pytest.mark.slow
def test_a_process_told_to_stop_stops_all_at_one_step_and_saves(source, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(
        "train",
        "tiny",
        *FLAGS,
        *source,
        "--run",
        folder,
        "--steps",
        100_000,
        "--eval-every",
        100_000,
        *TOGETHER,
    )
    running(folder, processes)
    processes[1].send_signal(signal.SIGTERM)
    (out, err), _ = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], err
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+); go on with: jaxgpt train --resume", out)[1])
    assert steps_saved(folder) == [stopped]
    assert lines(folder)[-1]["step"] == stopped
    resumed = jaxgpt("train", "--resume", folder, "--steps", stopped + 1, *ALONE)
    assert resumed.code == 0, resumed
    assert f"resuming after step {stopped}" in resumed.out


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_with_a_message_and_no_checkpoint_is_lost(source, tmp_path):
    folder = tmp_path / "run"
    processes = start_two(
        "train", "tiny", *FLAGS, *source, "--run", folder, "--steps", 100_000, "--eval-every", 2, *TOGETHER
    )
    running(folder, processes)
    wait_until((folder / "checkpoints" / "2").exists, processes[0])
    processes[1].kill()
    processes[1].communicate()
    _, err = processes[0].communicate(timeout=150)
    assert processes[0].returncode == LOST
    messages = [line for line in err.splitlines() if line.startswith("jaxgpt: ")]
    assert len(messages) == 1
    assert messages[0].startswith("jaxgpt: process 0 stops: ")  # process 1 is silent, or what it took part in failed
    assert f"whole checkpoints are kept, start all processes again with jaxgpt train --resume {folder}" in messages[0]
    saved = max(steps_saved(folder))
    assert jaxgpt("train", "--resume", folder, "--steps", saved + 1, *ALONE).code == 0


def test_processes_that_see_different_devices_refuse_to_start(tmp_path, source):
    processes = start_two("train", "tiny", *source, "--run", tmp_path / "run", devices=(1, 2))
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2
        assert "the processes see different numbers of devices (1 in process 0, 2 in process 1)" in err
    assert not (tmp_path / "run").exists()


def test_several_processes_need_one_name_for_the_run():
    """Asked before anything is computed."""
    process = start(
        "train", "tiny", "--coordinator", f"localhost:{free_port()}", "--num-processes", 1, "--process-id", 0
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.strip().splitlines()[-1] == "jaxgpt: several processes need one name for the run's folder: --run FOLDER"
