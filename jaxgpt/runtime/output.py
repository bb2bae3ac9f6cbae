"""Standard output of a command that computes for hours: where it can be written no more, the work goes on."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from jaxgpt.runtime.watchdog import say


class LastingOutput:
    """A text stream that is given up, and told so once, instead of raising OSError: a closed pipe, a full disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._given_up = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if not self._given_up:
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        if not self._given_up:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._given_up = True
        say(f"jaxgpt: standard output cannot be written ({error}); the work goes on without it")
        with contextlib.suppress(OSError, ValueError):
            # What is still in the stream's buffer would fail again when Python flushes it at exit.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Within, sys.stdout never raises OSError."""
    usual = sys.stdout
    lasting: Any = LastingOutput(usual)
    sys.stdout = lasting
    try:
        yield
    finally:
        lasting.flush()
        sys.stdout = usual
