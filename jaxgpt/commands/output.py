"""What commands print: lines, tables, a bar."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

PIPED_WIDTH = 400
"""Columns of a table that goes to a file: nothing is cut off."""


@contextmanager
def progress_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, and nothing where there is none."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


def say(text: str) -> None:
    """Print a line as it is."""
    Console(highlight=False, markup=False).print(text, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, or as wide as it is where there is none."""
    console = Console(highlight=False, markup=False)
    console.width = console.width if console.is_terminal else PIPED_WIDTH
    console.print(table)
