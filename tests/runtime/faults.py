"""Two processes that train, and a fault that meets one of them at a chosen moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from jaxgpt.runtime.user_cache import programs_folder
from tests.runs import QUICKLY, ROOT, free_port, without_torch

MOMENTS = {
    "before connecting": ("jaxgpt.runtime.processes", "initialize"),
    "preparing data": ("jaxgpt.training.trainer", "open_data"),
    "compiling": ("jaxgpt.training.trainer", "compile_step"),
    "step": ("jaxgpt.runtime.signals", "Stops.after"),
    "validation": ("jaxgpt.training.validation", "device_put_batch"),
    "save": ("jaxgpt.training.checkpoint", "Checkpoints.save"),
    "end": ("jaxgpt.training.sample", "write_sample"),
}
"""Moment of a run: the function whose call begins it."""

PROGRAM = """
import importlib, os, resource, runpy, time
from pathlib import Path
module, name, calls, process, fault, marks, disk = {told!r}
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
usual, called = getattr(owner, name), 0
def wrapped(*arguments, **named):
    global called
    called += 1
    if called == calls:
        begin()
    return usual(*arguments, **named)
def begin():
    Path(marks, str(process)).touch()
    if fault == "own error":
        raise ZeroDivisionError("a defect of our own")
    if fault == "full disk" and disk:
        with open(disk, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    elif fault == "full disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
    elif fault:
        time.sleep(3)  # the signal arrives
setattr(owner, name, wrapped)
runpy.run_module("jaxgpt", run_name="__main__", alter_sys=True)
"""
CALLS = {"step": 5, "validation": 2}
"""How often the function is called until the moment has come; else once."""


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    seconds: float
    out: str
    err: str


def start_with_fault(arguments, moment, victim, fault, marks, disk=None) -> list[subprocess.Popen]:
    """Two processes; the victim marks the moment by a file, then waits a little for its fault or fails by itself.

    A full disk is `disk`, a small one that is mounted, filled by a file; without, both can write no files any more.
    """
    address, processes = f"localhost:{free_port()}", []
    for process in range(2):
        meets_it = process == victim or (fault == "full disk" and disk is None)
        told = (*MOMENTS[moment], CALLS.get(moment, 1), process, fault if meets_it else "", str(marks))
        told = (*told, str(disk / "filler") if disk else "")
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-c", PROGRAM.format(told=told), *map(str, arguments)),
                    *("--coordinator", address, "--num-processes", "2", "--process-id", str(process)),
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    **{name.upper(): str(value) for name, value in QUICKLY.items()},
                    "JAX_COMPILATION_CACHE_DIR": programs_folder(),
                    "PYTHONPATH": without_torch(),
                    "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
                    # Where files are limited, programs are read and none is written.
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000" if fault == "full disk" else "0",
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def ends(processes: list[subprocess.Popen], since: float, deadline: float, but: int | None = None) -> list[Ended]:
    """How the processes end; all are killed, and their outputs shown, where one outlives the deadline.

    The process `but` cannot end by itself: it is killed once the others have.
    """
    found: dict[int, Ended] = {}
    while len(found) < len(processes) - (but is not None):
        for index, process in enumerate(processes):
            if index not in found and index != but and process.poll() is not None:
                found[index] = Ended(process.returncode, time.monotonic() - since, *process.communicate())
        if time.monotonic() - since > deadline:
            outputs = []
            for process in processes:
                process.kill()
                outputs.append(process.communicate())
            raise AssertionError(f"not ended after {deadline} seconds: {sorted(found)} did; they said {outputs}")
        time.sleep(0.02)
    if but is not None:
        processes[but].kill()
        found[but] = Ended(-signal.SIGKILL, 0.0, *processes[but].communicate())
    return [found[index] for index in range(len(processes))]


def wait_for_mark(marks: Path, victim: int, processes: list[subprocess.Popen], deadline: float = 240) -> None:
    """Until the victim's moment has come."""
    began = time.monotonic()
    while not (marks / str(victim)).exists():
        if any(process.poll() is not None for process in processes) or time.monotonic() - began > deadline:
            for process in processes:
                process.kill()
            raise AssertionError(f"the moment did not come: {[process.communicate() for process in processes]}")
        time.sleep(0.01)
