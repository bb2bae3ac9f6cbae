"""`jaxgpt generate --interactive`: a line, its continuation, and again."""

import contextlib
import dataclasses
import sys
from typing import TYPE_CHECKING

from jaxgpt.commands.generate import Arguments, prompt_ids, write_samples
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jaxgpt.data import Tokenizer
    from jaxgpt.model.gpt import GPT

NUMBERS = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "max_new_tokens": int,
    "num_samples": int,
}
"""What a line such as /temperature 0.7 changes."""


def converse(chosen: Arguments, model: "GPT", tokenizer: "Tokenizer") -> int:
    """Read lines until /quit or the end of the input; returns the exit code."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() then has a history and an editor
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return 0
        except KeyboardInterrupt:
            sys.stdout.write("\n")
            continue
        if line.strip() == "/quit":
            return 0
        try:
            if line.startswith("/"):
                chosen = changed(chosen, line)
            else:
                write_samples(chosen, model, tokenizer, prompt_ids(tokenizer, line, special=chosen.special), echo=False)
                chosen = dataclasses.replace(chosen, seed=chosen.seed + 1)  # the same line again goes on differently
        except UserError as error:
            sys.stderr.write(f"{error}\n")


def changed(chosen: Arguments, line: str) -> Arguments:
    """The arguments after a line such as /temperature 0.7. Raises UserError where it is no such line."""
    name, _, value = line[1:].strip().partition(" ")
    name = name.replace("-", "_")
    if name not in NUMBERS:
        known = ", ".join(f"/{one.replace('_', '-')}" for one in NUMBERS)
        raise UserError(f"/{name} is not known; there are {known} with a number, and /quit")
    try:
        number = NUMBERS[name](value)
    except ValueError:
        raise UserError(f"/{name} needs a number, not {value!r}") from None
    after = dataclasses.replace(chosen, **{name: number})
    _ = after.settings  # refuses what is out of range
    if after.num_samples < 1 or (after.max_new_tokens or 1) < 1:
        raise UserError(f"/{name} {value} asks for nothing; use at least 1")
    return after
