"""A disk that is full for a while, as a real one: mounted, filled, and freed again."""

import re
import signal
import threading
import time

import pytest

from tests.runs import start, steps_saved, write_text

FLAGS = ("--model.num-layers", 1, "--steps", 2_000_000, "--eval-every", 100_000, "--log-every", 3)


class Printed:
    """What a process prints, read as it comes."""

    def __init__(self, stream) -> None:
        self.lines: list[str] = []
        self._stream = stream
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with self._stream:
            self.lines.extend(iter(self._stream.readline, ""))

    def step(self) -> int:
        return next((int(m[1]) for line in reversed(self.lines) if (m := re.match(r"step +([\d,]+)", line))), 0)


def wait_for(happened, process, deadline=60):
    began = time.monotonic()
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < deadline, process.kill()
        time.sleep(0.1)


def fill(path):
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


@pytest.mark.slow
def test_a_run_goes_on_while_the_disk_is_full_and_after(small_disk, tmp_path):
    if small_disk is None:
        pytest.skip("mounting a small disk needs root")
    run, text = small_disk / "run", write_text(tmp_path / "text.txt")
    process = start("train", "tiny", *FLAGS, "--data.source", text, "--run", run, "--on-failed-save", "go_on")
    out, err = Printed(process.stdout), Printed(process.stderr)
    try:
        metrics = run / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 10, process, 120)
        fill(small_disk / "filler")
        full = out.step()
        for _ in range(20):  # longer than any queue of lines takes to fill, were there one
            before = out.step()
            wait_for(lambda before=before: out.step() > before, process)
            time.sleep(1)
        assert sum("metrics.jsonl" in line for line in err.lines + out.lines) == 1
        (small_disk / "filler").unlink()
        freed = out.step()
        wait_for(lambda: metrics.read_text().count("\n") > 1 and last_step(metrics) > freed, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, err.lines
        assert steps_saved(run)[-1] >= freed > full
    finally:
        process.kill()


def last_step(metrics) -> int:
    """Of the last whole line."""
    return int(re.findall(r'"step": (\d+)', metrics.read_text())[-1])
