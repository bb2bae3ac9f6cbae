"""What a person sees of a run: a live line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text


class Display:
    """The newest numbers of a run. A validation stays on the screen. Use as a context."""

    def __init__(self, console: Console, start: int, steps: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=max(4, min(24, console.width - 74))),
            TextColumn("{task.fields[status]}"),
            Times(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, status="first step", end=None)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def advance(self, step: int) -> None:
        """A step is done."""
        self._progress.update(self._task, completed=step)

    def show(self, line: dict[str, float], seconds_left: float) -> None:
        """Show the newest line; where there is no bar, every line, with the time it took and the time left."""
        status = f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
        share = f"  MFU {100 * line['mfu']:.1f} % ({100 * line['mfu_causal']:.1f} causal)" if "mfu" in line else ""
        seen = f"{compact(line['tokens'])} tokens"
        bar = f"{status}{share if self._console.width >= 110 else ''}  {seen}"
        self._progress.update(self._task, completed=line["step"], status=bar, end=time.monotonic() + seconds_left)
        status += share
        if not self._console.is_terminal:
            left = f", {duration(seconds_left)} left" if seconds_left >= 1 else ""
            status += f"  {seen} in {duration(line['seconds'])}{left}"
        if "val_loss" in line:
            status += f"  validation loss {line['val_loss']:.3f}"
        if "val_loss" in line or not self._console.is_terminal:
            self._console.print(f"step {line['step']:>6}  {status}", highlight=False, soft_wrap=True)


class Times(ProgressColumn):
    """The time since the start, and the time left as the newest line said it, both moving each second."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        """Both, such as 16 s, 55 s left."""
        end = task.fields["end"]
        left = "" if end is None else f", {duration(max(0.0, end - time.monotonic()))} left"
        return Text(duration(task.elapsed or 0.0) + left, no_wrap=True)


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """Within, a terminal says what is being done, and for how long: compiling 8 s."""
    columns = (
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        TextColumn("{task.description}"),
        Times(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None, end=None)
        yield


def compact(number: float) -> str:
    """A large number in three digits.

    >>> compact(8_192), compact(307_200), compact(1_230_000), compact(2.5e9)
    ('8,192', '307k', '1.23M', '2.5B')
    """
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e5, "k")):
        if number >= size:
            scale = 1e3 if unit == "k" else size
            return f"{number / scale:.3g}{unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """In the two largest units.

    >>> duration(42), duration(190), duration(7500), duration(200_000)
    ('42 s', '3 min 10 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for large, small, size, part in (("min", "s", 60, 1), ("h", "min", 3600, 60)):
        if whole < size * (60 if large == "min" else 24):
            return f"{whole // size} {large} {whole % size // part} {small}"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
