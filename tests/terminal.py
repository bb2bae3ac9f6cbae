"""A terminal of 80 columns and 24 lines with a shell in it: what a newcomer types and sees."""

import re
import signal
from pathlib import Path

import pexpect
import pyte

COLUMNS, LINES = 80, 24
PROMPT = "ready-for-a-command>"


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
            preexec_fn=restore_sigint,
        )
        self._shell.expect_exact(PROMPT)

    def run(self, line: str, *, interrupt_after: str | None = None, seconds: float = 1800) -> str:
        """Type a line, press Ctrl-C once the screen shows a text, and return all that has been on the screen."""
        self._shell.sendline(line)
        seen = ""
        if interrupt_after is not None:
            self._shell.expect_exact(interrupt_after, timeout=seconds)
            seen = self._shell.before + self._shell.after
            self._shell.sendintr()
        self._shell.expect_exact(PROMPT, timeout=seconds)
        return render(seen + self._shell.before)

    def close(self) -> None:
        """End the shell and whatever runs in it."""
        self._shell.close(force=True)


def restore_sigint() -> None:
    """A program in the background ignores SIGINT, and its children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def render(printed: str) -> str:
    """What a person reads who scrolls up: lines that were drawn again stand once, as they were last."""
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=100_000, ratio=1)
    pyte.Stream(screen).feed(printed)
    above = ["".join(line[column].data for column in range(COLUMNS)) for line in screen.history.top]
    return "\n".join(line.rstrip() for line in [*above, *screen.display]).strip("\n")


def normalize(shown: str) -> str:
    """What a screen says on every machine: without the size of numbers, a model's own words, blanks, breaks of lines,
    and the folder of the clone.
    """
    shown = re.sub(r"(─+ [\w ,]+ ─+\n).*?\n─+$", r"\1(text)", shown, flags=re.DOTALL | re.MULTILINE)
    shown = re.sub(r"[▁▂▃▄▅▆▇█]+", "▁", shown)
    shown = re.sub(r"[+-]?\d[\d.,]*(e[+-]?\d+)?", "0", shown)
    shown = re.sub(r"\b0 (h|min|s)\b( 0 (min|s)\b)?", "0 s", shown)
    shown = re.sub(r"\b0 [kMGT]?B\b", "0 B", shown)
    return re.sub(r"(/[\w.-]+)*/jaxgpt/", "jaxgpt/", "".join(shown.split()))
