"""One process that is told to stop: by a terminal that closes, by a scheduler before there is anything to save."""

import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import FLAGS, jaxgpt, lines, start, steps_saved, wait_until

pytestmark = pytest.mark.slow


def launch(trained, folder):
    return start("train", "tiny", *FLAGS, "--data.source", trained.parent / "text.txt", "--run", folder)


def training(folder, process):
    wait_until(lambda: (folder / "metrics.jsonl").exists() and len(lines(folder)) > 4, process)


def test_a_run_whose_terminal_closes_is_saved(trained, tmp_path):
    folder = tmp_path / "run"
    process = launch(trained, folder)
    training(folder, process)
    process.stdout.close()
    process.send_signal(signal.SIGHUP)
    process.stderr.close()
    assert process.wait(timeout=60) == 0
    assert steps_saved(folder)


def test_under_nohup_a_terminal_that_closes_is_nothing(trained, tmp_path):
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it to its command
    try:
        process = launch(trained, tmp_path / "run")
    finally:
        signal.signal(signal.SIGHUP, usual)
    training(tmp_path / "run", process)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "stopped" not in out


@pytest.mark.parametrize("seconds", [0.7, 1.5, 3])
def test_a_run_told_to_stop_before_its_first_step_ends_soon_and_starts_again(trained, tmp_path, seconds):
    folder = tmp_path / "run"
    process = launch(trained, folder)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - told < 15
    assert process.returncode in (0, 128 + signal.SIGTERM, -signal.SIGTERM), err
    assert "Traceback" not in err
    if (folder / "config.json").exists():
        assert jaxgpt("train", "--resume", folder).code == 0
    else:
        process = launch(trained, folder)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err


def test_a_run_whose_output_nobody_reads_on_comes_to_its_end(trained, tmp_path):
    words = ["train", "tiny", *FLAGS, "--data.source", trained.parent / "text.txt", "--run", tmp_path / "run"]
    command = f"{shlex.quote(sys.executable)} -m jaxgpt {shlex.join(map(str, words))} | head -n 1"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended
    assert "the work goes on without it" in ended.stderr
    assert steps_saved(tmp_path / "run")[-1] == 200
