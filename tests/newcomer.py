"""A fresh machine on which somebody follows README and tutorial to the letter, and the transcript of it.

`python -m tests.newcomer` writes the transcript anew.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.documents import ROOT, command_lines, fill_hub_cache
from tests.terminal import Terminal

TRANSCRIPT = ROOT / "tests/fixtures/transcript.txt"
SHAKESPEARE = ROOT.parent / "shared/data/tinyshakespeare.txt"
SETUP = ["cp -r docs my-texts; cp README.md my.txt"]
"""The texts that the pages call one's own."""
REPLACED = {
    "make test": "make install",  # which it does first; this is a test of the suite
    "jaxgpt train gpt2 --data.source tokens/": None,  # days without a GPU
}
FEWER_STEPS = ("--steps 1000 --eval-every 100", "--steps 60 --eval-every 30")
"""Of the steps of uptraining, which is tested as it is printed but for them."""
CTRL_C_AFTER = {
    "jaxgpt train shakespeare-char-cpu --run runs/shakespeare": "tokens/s",
    "jaxgpt serve runs/first": "http://127.0.0.1:8000",
}
"""Where Ctrl-C is pressed: once the screen shows this."""


class Command(NamedTuple):
    """A line that was typed, and what the screen showed."""

    line: str
    shown: str


def command_lines_to_type() -> list[str]:
    """What README and tutorial say to type, each once."""
    said = [line for page in ("README.md", "docs/tutorial.md") for _, line in command_lines(ROOT / page)]
    typed = [REPLACED.get(line, line.replace(*FEWER_STEPS)) for line in said]
    return list(dict.fromkeys([*SETUP, *(line for line in typed if line)]))


def transcript() -> list[Command]:
    """The commands of the committed transcript, each of which begins with a dollar sign."""
    pieces = ("\n" + TRANSCRIPT.read_text(encoding="utf-8")).split("\n$ ")[1:]
    return [Command(line, shown) for line, _, shown in (piece.partition("\n") for piece in pieces)]


def type_line(terminal: Terminal, line: str) -> Command:
    """Type it, and press Ctrl-C where the pages say so."""
    return Command(line, terminal.run(line, interrupt_after=CTRL_C_AFTER.get(line)))


def environment(home: Path) -> dict[str, str]:
    """That of a machine on which nothing was done yet; pip's variables say where packages come from."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYENV_ROOT") or name[:4] == "PIP_"}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8"}


@contextmanager
def fresh_machine(folder: Path) -> Iterator[Terminal]:
    """A terminal in a fresh clone, at home in an empty folder. A tiny model stands in for the hub's GPT-2."""
    clone, home = folder / "jaxgpt", folder / "home"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    fill_hub_cache(home / "hub", "openai-community/gpt2", context_length=256)
    settings = {"VIRTUAL_ENV_DISABLE_PROMPT": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(home / "hub")}
    terminal = Terminal(clone, {**environment(home), **settings, "JAXGPT_SHAKESPEARE": str(SHAKESPEARE)})
    try:
        yield terminal
    finally:
        terminal.close()


def main() -> None:
    """Type everything, and write down what the screen showed."""
    with (
        tempfile.TemporaryDirectory() as folder,
        fresh_machine(Path(folder)) as terminal,
        TRANSCRIPT.open("w", encoding="utf-8") as file,
    ):
        for line in command_lines_to_type():
            print(f"$ {line}", flush=True)
            shown = re.sub(r"/[\w/]+/jaxgpt/", "/home/you/jaxgpt/", type_line(terminal, line).shown)
            file.write(f"$ {line}\n{shown}\n")
            file.flush()


if __name__ == "__main__":
    main()
