"""The standard streams as a command finds them: closed, full, or left by their reader."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from jaxgpt.errors import UserError

READER_LEFT = 141
"""The exit code of a command whose output nobody reads on: 128 + SIGPIPE, as shells have it."""


def open_closed_streams() -> None:
    """Have all three streams open: a file that is opened while one is closed would get its number, and all that
    libraries print would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


class Output:
    """A text stream that ends the command where it can be written no more: quietly where its reader has left."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        try:
            return self.stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self.stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._write_nowhere()
        if isinstance(error, BrokenPipeError):
            raise SystemExit(READER_LEFT) from None
        raise UserError(f"standard output cannot be written ({error.strerror}): send it elsewhere") from None

    def _write_nowhere(self) -> None:
        """What is still in the stream's buffer would fail again when Python flushes it at exit."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        self.stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


class LastingOutput(Output):
    """For a command that computes for hours: the stream is given up, and told so once, and the work goes on."""

    def _give_up(self, error: OSError) -> None:
        from jaxgpt.runtime.watchdog import say

        self._write_nowhere()
        say(f"jaxgpt: standard output cannot be written ({error}); the work goes on without it")


@contextlib.contextmanager
def checked_output() -> Iterator[None]:
    """Within, sys.stdout is an Output."""
    usual = sys.stdout
    checked: Any = Output(usual)
    sys.stdout = checked
    try:
        yield
    finally:
        sys.stdout = usual
        checked.flush()


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Within, sys.stdout never raises OSError."""
    usual = sys.stdout
    lasting: Any = LastingOutput(usual.stream if isinstance(usual, Output) else usual)
    sys.stdout = lasting
    try:
        yield
    finally:
        lasting.flush()
        sys.stdout = usual
