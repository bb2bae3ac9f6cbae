"""How long does a user wait until the first step of `jaxgpt train` begins, the first time and later?

    python -m experiments.start

The command is run with one step, in an empty cache folder the first time, and the clock is read when a line appears:
the header, and the validation loss before training, after which nothing is left to do before the first step. The first
time tokens are made from the text and programs compiled, later both are read from the cache. What it does not show: the
first start after a boot, with nothing in the system's file cache.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from experiments import evidence

MOMENTS = {"run ": "header", "validation loss before training": "first_step_begins"}
"""The beginning of the line at each moment."""


def main(starts: int = 9, preset: str = "quickstart", results: Path = evidence.RESULTS) -> dict:
    """Start training again and again, and save the medians.

    Args:
        starts: After the first.
        preset: What is trained.
        results: Where the result goes.
    """
    environment = evidence.environment("python -m experiments.start")
    with tempfile.TemporaryDirectory() as folder:
        first, *later = (seconds_until(preset, Path(folder), f"run-{number}") for number in range(starts + 1))
    result = {
        "preset": preset,
        "starts": starts,
        "first": first,
        "later": {moment: statistics.median(start[moment] for start in later) for moment in first},
        "environment": environment,
    }
    print(json.dumps(evidence.rounded(result, 3), indent=1))
    evidence.write("start", result, results)
    return result


def seconds_until(preset: str, folder: Path, name: str) -> dict[str, float]:
    """The seconds from the command to each moment of a run of one step."""
    command = [sys.executable, "-m", "jaxgpt", "train", preset, "--steps", "1", "--eval-batches", "1"]
    environment = os.environ | {"JAXGPT_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    found: dict[str, float] = {}
    began = time.perf_counter()
    with subprocess.Popen(
        [*command, "--sample-tokens", "0", "--run", str(folder / name)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None, "it was asked for"
        for line in process.stdout:
            for beginning, moment in MOMENTS.items():
                if line.startswith(beginning):
                    found.setdefault(moment, time.perf_counter() - began)
    if process.returncode or len(found) < len(MOMENTS):
        raise ValueError(f"`{' '.join(command)}` ended with code {process.returncode}; run it by hand to see why")
    return found


if __name__ == "__main__":
    tyro.cli(main)
