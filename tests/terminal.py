"""A terminal of 80 columns and 24 lines with a shell in it: what a newcomer types and sees."""

import doctest
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pexpect
import pyte

COLUMNS, LINES = 80, 24
PROMPT = "ready-for-a-command>"
INTERRUPT = "^C"
MATCHES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Command(NamedTuple):
    """A line of a transcript that begins with a dollar sign, and the lines that it printed."""

    line: str
    output: str


def commands(transcript: str) -> Iterator[Command]:
    """The commands of a transcript in turn. A backslash continues a line, as in a shell."""
    for piece in ("\n" + transcript).split("\n$ ")[1:]:
        line, _, output = piece.replace("\\\n", "").partition("\n")
        yield Command(line, output)


class Terminal:
    """A shell that runs in `folder`, with these variables in place of the tests' own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._shell = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "-i"],
            cwd=str(folder),
            env={**environment, "PS1": PROMPT, "TERM": "xterm-256color"},
            dimensions=(LINES, COLUMNS),
            encoding="utf-8",
            echo=False,
        )
        self._shell.expect_exact(PROMPT)

    def run(self, line: str, *, interrupt_after: str | None = None, seconds: float = 900) -> str:
        """Type a line, press Ctrl-C once the screen shows a text, and return all that has been on the screen."""
        self._shell.sendline(line)
        seen = ""
        if interrupt_after is not None:
            self._shell.expect_exact(interrupt_after, timeout=seconds)
            seen = self._shell.before + self._shell.after
            self._shell.sendintr()
        self._shell.expect_exact(PROMPT, timeout=seconds)
        return as_shown(seen + self._shell.before)

    def close(self) -> None:
        """End the shell and whatever runs in it."""
        self._shell.close(force=True)


def as_shown(printed: str) -> str:
    """What a person reads who scrolls up: lines that were drawn again stand once, as they were last."""
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=100_000, ratio=1)
    pyte.Stream(screen).feed(printed)
    above = ["".join(line[column].data for column in range(COLUMNS)) for line in screen.history.top]
    return "\n".join(line.rstrip() for line in [*above, *screen.display]).rstrip() + "\n"


def difference(wanted: str, got: str) -> str | None:
    """None where `got` is what the transcript says; in it `...` stands for anything, and any blanks are alike."""
    checker = doctest.OutputChecker()
    if checker.check_output(wanted, got, MATCHES):
        return None
    return checker.output_difference(doctest.Example("", wanted), got, MATCHES)
