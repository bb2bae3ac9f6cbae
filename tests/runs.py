"""Small runs for the tests of training and of the commands: started here or in a process of their own."""

import contextlib
import io
import json
import os
import random
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from jaxgpt.cli import main
from jaxgpt.parallel.mesh import one_device
from jaxgpt.runtime.user_cache import cache_folder, programs_folder
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.run import read_run

STEPS, EVAL_EVERY = 200, 50
FLAGS = ("--model.num-layers", "1", "--steps", str(STEPS), "--eval-every", str(EVAL_EVERY), "--sample-tokens", "16")
ROOT = Path(__file__).resolve().parent.parent

# These programs run for a second: they are compiled quickly, in one way, and once for all processes.
QUICKLY = {"jax_disable_most_optimizations": True, "jax_persistent_cache_min_compile_time_secs": 0}


QUICK = {"xla_backend_optimization_level": 0}
"""Compiler options for machine code made three times as fast."""
quick = partial(jax.jit, compiler_options=QUICK)


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


def write_text(path: Path) -> Path:
    """A text of 65 different characters, as many as the tiny preset has tokens."""
    characters = (string.ascii_letters + string.punctuation)[:63]
    words = [characters[i : i + 4] for i in range(60)]
    drawn = random.Random(0).choices(words, k=4000)
    lines = (" ".join(drawn[i : i + 8]) for i in range(0, len(drawn), 8))
    path.write_text("\n".join(lines) + characters)
    return path


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Within, what is compiled is what `start` compiles."""
    changes = {**QUICKLY, "jax_compilation_cache_dir": programs_folder()}
    usual = {name: jax.config.values[name] for name in changes}
    try:
        for name, value in changes.items():
            jax.config.update(name, value)
        reset_cache()
        yield
    finally:
        for name, value in usual.items():
            jax.config.update(name, value)
        reset_cache()


def jaxgpt(*arguments: object) -> Outcome:
    """Run a command line in this process; training uses one of its devices, unless a mesh is asked for."""
    if arguments[:1] == ("train",) and not {"--mesh.data", "--mesh.fsdp"} & set(arguments):
        named = 2 if arguments[1:] and not str(arguments[1]).startswith("-") else 1
        arguments = (*arguments[:named], "--mesh.data", "1", "--mesh.allow-idle", *arguments[named:])
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["jaxgpt", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        quick_compilation(),
    ):
        try:
            code = main()
        except SystemExit as end:  # tyro's way
            code = end.code
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: object, largest_file: int | None = None, devices: int = 1) -> subprocess.Popen:
    """Run a command line in a process of its own, which can write no file of more bytes than `largest_file`."""
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file}, {largest_file})); " if largest_file else ""
    program = f"import resource, runpy; {limit}runpy.run_module('jaxgpt', run_name='__main__', alter_sys=True)"
    settings = {**QUICKLY, "jax_compilation_cache_dir": programs_folder()}
    if largest_file:
        settings["jax_persistent_cache_min_compile_time_secs"] = 1000  # read programs, write none
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env={
            **os.environ,
            **{name.upper(): str(value) for name, value in settings.items()},
            "PYTHONPATH": without_torch(),
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(*arguments: object, devices: tuple[int, int] = (4, 4)) -> list[subprocess.Popen]:
    """Run a command line in two processes that work together, with so many devices each."""
    address = f"localhost:{free_port()}"
    return [
        start(*arguments, "--coordinator", address, "--num-processes", 2, "--process-id", i, devices=each)
        for i, each in enumerate(devices)
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def without_torch() -> str:
    """A folder that hides torch, which other packages import where it is installed, slowly."""
    folder = cache_folder() / "without-torch"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torch.py").write_text("raise ImportError")
    return str(folder)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    """Look every millisecond; the process must still be running."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def lines(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run, without those that time decides."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in found:
        for name in ("tokens_per_second", "seconds"):
            line.pop(name, None)
    return found


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def state(folder: Path) -> dict[str, np.ndarray]:
    """Every number of a run's newest checkpoint, by its path."""
    run = read_run(folder)
    with Checkpoints(run.checkpoints) as checkpoints:
        found = checkpoints.restore_state(run.config, checkpoints.latest, one_device())
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(found)}


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the last bit: the loss curve, parameters, moments."""
    assert lines(one) == lines(other)
    here, there = state(one), state(other)
    assert here.keys() == there.keys()
    for name in here:
        np.testing.assert_array_equal(here[name], there[name], err_msg=name)
