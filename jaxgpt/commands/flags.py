"""Command lines before tyro reads them: which flags there are, the word that is no flag, what other tools call ours."""

import dataclasses
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxgpt.errors import UserError

Arity = Literal[0, 1, "many"]
"""How many words follow a flag."""


def flags_of(arguments: type[Any]) -> dict[str, Arity]:
    """The flags that tyro makes of a dataclass, with the number of their values."""
    return dict(_walk(arguments, ""))


def _walk(kind: type[Any], prefix: str) -> Iterable[tuple[str, Arity]]:
    hints, plain = get_type_hints(kind, include_extras=True), get_type_hints(kind)
    for field in dataclasses.fields(kind):
        name = field.name.replace("_", "-")
        marks = getattr(hints[field.name], "__metadata__", ())
        if dataclasses.is_dataclass(plain[field.name]):
            flat = any(getattr(mark, "name", None) == "" for mark in marks)
            yield from _walk(plain[field.name], prefix if flat else f"{prefix}{name}.")
        elif plain[field.name] is bool:
            head, _, last = f"{prefix}{name}".rpartition(".")
            yield f"--{prefix}{name}", 0
            yield f"--{head + '.' if head else ''}no-{last}", 0
        else:
            appended = any("UseAppendAction" in repr(mark) for mark in marks)
            yield f"--{prefix}{name}", "many" if _holds_tuple(plain[field.name]) and not appended else 1


def _holds_tuple(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return any(_holds_tuple(part) for part in get_args(kind))
    return get_origin(kind) is tuple


def spelled(word: str) -> str:
    """A flag as tyro knows it: without its value, hyphens in place of underscores."""
    return word.partition("=")[0].replace("_", "-")


def take_name(words: list[str], known: dict[str, Arity], names: Iterable[str]) -> str | None:
    """The word that is neither a flag nor a flag's value, which is taken out of the words; None where there is none.

    Raises UserError where there are two.

    >>> words = ["--steps", "3", "tiny"]
    >>> take_name(words, {"--steps": 1}, ["tiny"]), words
    ('tiny', ['--steps', '3'])
    """
    found, names, left = [], set(names), 0.0
    for index, word in enumerate(words):
        if word.startswith("-") and not _is_number(word):
            arity = 0 if "=" in word else known.get(spelled(word), 1)
            left = float("inf") if arity == "many" else arity
        elif left > 0 and not (left > 1 and word in names):
            left -= 1
        else:
            found.append(index)
    if len(found) > 1:
        given = " and ".join(words[index] for index in found)
        raise UserError(f"{given}: give one preset, and flags with their values")
    return words.pop(found[0]) if found else None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def refuse_foreign(words: Iterable[str], known: dict[str, Arity], foreign: dict[str, str]) -> None:
    """Raise UserError where flags are those of other tools, with the flags to use; also for the end of one of ours."""
    by_end: dict[str, list[str]] = {}
    for flag in known:
        by_end.setdefault("--" + flag.rpartition(".")[2].removeprefix("--"), []).append(flag)
    told = {}
    for word in words:
        flag = spelled(word)
        if not word.startswith("-") or flag in known:
            continue
        name = "--" + flag.lstrip("-")
        if ours := foreign.get(name) or " or ".join(by_end.get(name, [])):
            told[word.partition("=")[0]] = f"use {ours}" if ours.startswith("--") else ours
    if told:
        raise UserError("; ".join(f"there is no {given} here: {cure}" for given, cure in told.items()))
