"""`jaxgpt completion`: shell completion of the whole command line, by tyro."""

import contextlib
import dataclasses
import functools
import importlib
import operator
from pkgutil import iter_modules
from typing import Annotated, Any, Literal

import tyro

from jaxgpt import commands as package
from jaxgpt.training.presets import PRESETS

PACKAGE = package.__path__


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Print what makes a shell complete commands, presets, flags and their values."""

    shell: tyro.conf.Positional[Literal["bash", "zsh", "tcsh"]]
    """Put `eval "$(jaxgpt completion bash)"` into ~/.bashrc, or the same with zsh into ~/.zshrc after compinit."""


def main(arguments: list[str]) -> int:
    """Print the script; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt completion", args=arguments)
    with contextlib.suppress(SystemExit):
        tyro.cli(commands(), prog="jaxgpt", args=["--tyro-print-completion", chosen.shell])
    return 0


def commands() -> Any:
    """All commands as one type, as tyro spells subcommands; lm_eval has a parser of its own."""
    from converters.arguments import Convert, Verify
    from jaxgpt.commands import data

    modules = {found.name: importlib.import_module(f"{__package__}.{found.name}") for found in iter_modules(PACKAGE)}
    ours = {name: module.Arguments for name, module in modules.items() if {"main", "Arguments"} <= vars(module).keys()}
    trained = {name: _with_preset(name, ours[name]) for name in ("train", "plan")}
    others = {"convert": Convert, "verify": Verify, "lm_eval": dataclasses.make_dataclass("LmEval", [])}
    return _either(ours | trained | others | {"data": _either(data.COMMANDS)})


def _with_preset(command: str, flags: Any) -> Any:
    """The flags of a command, with the preset as the word that it is."""
    preset = tyro.conf.Positional[Literal[tuple(PRESETS)]]  # type: ignore[misc, valid-type]
    return dataclasses.make_dataclass(command.title(), [("preset", preset, "quickstart")], bases=(flags,), frozen=True)


def _either(kinds: dict[str, Any]) -> Any:
    return functools.reduce(operator.or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items()))
