"""A trace of some steps, for XProf (TensorBoard's profile page) and Perfetto."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxgpt.runtime.watchdog import say
from jaxgpt.training.state import TrainState

Steps = Iterator[tuple[TrainState, Any]]
Clock = Callable[[], AbstractContextManager[None]]
"""Time spent within does not count as training."""


def traced(steps: Steps, done: int, wanted: range, folder: Path, console: Console, stopped: Clock) -> Steps:
    """The same steps, of which those in `wanted` are traced into RUN/profile; `done` of the run were done before."""
    yield from islice(steps, max(0, wanted.start - 1 - done))
    first, last = max(wanted.start, done + 1), wanted.stop - 1
    if first <= last:
        with _trace(folder / "profile", stopped) as ok:
            for number in range(first, last + 1):
                with jax.profiler.StepTraceAnnotation("train", step_num=number):
                    found = next(steps, None)
                if found is None:
                    break
                yield found
                if number == last:
                    jax.block_until_ready(found)
        if ok:
            _tell(folder, f"steps {first} to {last}", console)
    yield from steps


@contextmanager
def _trace(folder: Path, stopped: Clock) -> Iterator[list[Path]]:
    """Within, what the devices do is recorded; a trace that cannot be written is reported, and training goes on."""
    written: list[Path] = []
    with stopped():
        running = _try(
            lambda: jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=_options())
        )
    try:
        yield written
    finally:
        with stopped():
            if running and _try(jax.profiler.stop_trace):
                written += sorted(folder.glob("plugins/profile/*/perfetto_trace.json.gz"))


def _options() -> jax.profiler.ProfileOptions:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # each call of a Python function would be an event
    return options


def _try(action: Callable[[], object]) -> bool:
    try:
        action()
    except (OSError, RuntimeError, ValueError) as error:
        say(f"jaxgpt: the trace cannot be written ({error}); training goes on")
        return False
    return True


def _tell(folder: Path, steps: str, console: Console) -> None:
    console.print(
        f"{steps} traced: open {folder / 'profile'} by `xprof --logdir {shlex.quote(str(folder / 'profile'))}` (pip "
        "install xprof), or its perfetto_trace.json.gz at https://ui.perfetto.dev",
        soft_wrap=True,
    )
