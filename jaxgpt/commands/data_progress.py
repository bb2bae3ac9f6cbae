"""The bar of `jaxgpt data prepare`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxgpt.data.preparation.inputs import COMPRESSED, Input
from jaxgpt.data.preparation.prepare import Progress as Prepared

SECONDS_BETWEEN_LINES = 30.0
"""Where the output is no terminal."""


@contextmanager
def progress_bar(size: int, inputs: tuple[Input, ...]) -> Iterator[Callable[[Prepared], None]]:
    """Within, what is yielded shows documents, tokens, tokens per second and the time that is left.

    Of compressed text nobody knows how much is left.
    """
    known = bool(size) and all(source.kind == "text" and not source.path.endswith(COMPRESSED) for source in inputs)
    console = Console(stderr=True, highlight=False)
    began, last, before = time.monotonic(), time.monotonic(), None
    with Progress(
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=size if known else None)

        def report(done: Prepared) -> None:
            nonlocal last, before
            before = done.tokens if before is None else before
            now = time.monotonic()
            speed = (done.tokens - before) / max(now - began, 1e-9)
            text = f"{done.documents:,} documents, {done.tokens:,} tokens, {speed:,.0f} tokens/s"
            bar.update(task, completed=done.seen_bytes, description=text)
            if not console.is_terminal and now - last > SECONDS_BETWEEN_LINES:
                last = now
                console.print(text)

        yield report
