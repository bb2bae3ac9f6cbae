"""What a person sees of a run: a live line on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """The newest numbers of a run. A validation stays on the screen. Use as a context."""

    def __init__(self, console: Console, start: int, steps: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, status="first step")

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
        """Show the newest line, with the time left where there is no bar."""
        status = f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in line:
            status += f"  MFU {100 * line['mfu']:.1f} %"
        self._progress.update(self._task, completed=line["step"], status=status)
        if not self._console.is_terminal and seconds_left >= 1:
            status += f"  {duration(seconds_left)} left"
        if "val_loss" in line:
            status += f"  validation loss {line['val_loss']:.3f}"
        if "val_loss" in line or not self._console.is_terminal:
            self._console.print(f"step {line['step']:>6}  {status}", highlight=False, soft_wrap=True)


@contextmanager
def busy(console: Console, what: str) -> Iterator[None]:
    """Within, a terminal says what is being done, and for how long."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


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
