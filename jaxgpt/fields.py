"""The types of a frozen dataclass's fields, checked when it is made: JSON and Python let anything through."""

import reprlib
import sys
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxgpt.errors import UserError

LARGEST = {"seed": 2**63 - 1, "num_layers": 10_000}
"""The largest whole number of a field; of all others, of 32 bits with a sign: what XLA indexes with."""

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "none"}


def check_types(config: Any) -> None:
    """Raise UserError with name, value and rule where a field does not have the type of its annotation."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not isinstance(value, (bool, int, float, str)) and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()  # a number of numpy's
            object.__setattr__(config, name, value)
        if type(value) is int and float in (kind, *get_args(kind)) and _fits(value, float):
            value = float(value)  # as JSON and people write it
            object.__setattr__(config, name, value)
        if not _fits(value, kind):
            raise UserError(f"{name}={reprlib.repr(value)} must be {_describe(kind)}")
        numbers = value if isinstance(value, tuple) else (value,)
        limit = LARGEST.get(name, 2**31 - 1)
        if any(isinstance(number, int) and not -limit <= number <= limit for number in numbers):
            raise UserError(f"{name}={reprlib.repr(value)} is too large: at most {limit}")


def _fits(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in parts)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(item, parts[0]) for item in value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and not _overflows(value)
    return isinstance(value, kind)


def _overflows(value: float) -> bool:
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _describe(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(_describe(part) for part in parts)
    if origin is tuple:
        return f"a list, each of it {_describe(parts[0])}"
    return WORDS.get(kind) or f"a {kind.__name__}"
