"""Settings of a run by their names: fields of the config, changed by keyword, flag or file."""

import dataclasses
import difflib
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig


def override(config: TrainConfig, fields: dict[str, Any]) -> TrainConfig:
    """The config with fields changed, by their names or by dotted ones. Raises UserError on one that is not there.

    >>> override(TrainConfig(), {"steps": 3, "learning_rate": 1e-3, "model__window": 8}).optimizer.learning_rate
    0.001
    """
    changes: dict[str, dict[str, Any]] = {}
    for given, value in fields.items():
        outer, _, inner = field_name(given).rpartition(".")
        changes.setdefault(outer, {})[inner] = value
    top = changes.pop("", {})  # all at once: two fields may only fit each other when both have changed
    nested = {outer: dataclasses.replace(getattr(config, outer), **inner) for outer, inner in changes.items()}
    return dataclasses.replace(config, **top, **nested)


def field_name(given: str) -> str:
    """The dotted name of a field of the config, such as optimizer.learning_rate, which learning_rate alone says too."""
    names = []
    for field in dataclasses.fields(TrainConfig):
        default = field.default_factory() if callable(field.default_factory) else None
        nested = dataclasses.fields(default) if dataclasses.is_dataclass(default) else ()
        names += [f"{field.name}.{inner.name}" for inner in nested] or [field.name]
    dotted = given.replace("__", ".")
    found = [name for name in names if name == dotted] or [name for name in names if name.endswith(f".{dotted}")]
    if len(found) != 1:
        close = found or difflib.get_close_matches(dotted, {*names, *(name.split(".")[-1] for name in names)})
        raise UserError(f"{given!r} is no field of TrainConfig; did you mean {' or '.join(close) or 'steps'}?")
    return found[0]
