"""The parts of experiments.gpu_day; each is run in a process of its own, and prints its rows as it knows them.

A row is a dictionary: numbers under their names, `measured` and `beside` for people, `failed` where it has no result.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row]]
MARK = "row: "
"""Begins the lines that the parent reads."""


class Context(NamedTuple):
    """What a part is told."""

    device: Row
    """The row of the part `device`; empty for that part itself."""
    nanogpt: Path | None = None

    @property
    def tiny(self) -> bool:
        """Whether everything is made small, since there is no GPU."""
        return self.device["environment"]["size"] == "tiny"


class Part(NamedTuple):
    """Rows that are made by one process."""

    seconds: float
    """After which it is ended."""
    rows: Callable[[Context], Rows]


def attempt(name: str, make: Callable[[], Row]) -> tuple[str, Row]:
    """A row, or why there is none."""
    try:
        return name, make()
    except Exception as error:  # whatever it is, the row says it and the next one is made
        lines = str(error).strip().splitlines() or [""]
        return name, {"failed": f"{type(error).__name__}: {lines[0][:300]}"}


def _device(context: Context) -> Rows:
    from experiments import gpu_speed

    del context
    yield "device", gpu_speed.device()


def _attention(context: Context) -> Rows:
    from experiments import gpu_accuracy

    return gpu_accuracy.attention_rows(context)


def _models(context: Context) -> Rows:
    from experiments import gpu_accuracy

    return gpu_accuracy.model_rows(context)


def _train(name: str) -> Callable[[Context], Rows]:
    def rows(context: Context) -> Rows:
        from experiments import gpu_speed

        yield attempt(name, lambda: gpu_speed.train(name, context))

    return rows


def _decode(context: Context) -> Rows:
    from experiments import gpu_speed

    return gpu_speed.decode_rows(context)


def _rival(name: str) -> Callable[[Context], Rows]:
    def rows(context: Context) -> Rows:
        from experiments import gpu_rivals

        yield attempt(name, lambda: gpu_rivals.train(name, context))

    return rows


PARTS = {
    "device": Part(60, _device),
    "attention": Part(90, _attention),
    "train 124M": Part(150, _train("train 124M")),
    "decode": Part(150, _decode),
    "nanoGPT": Part(150, _rival("nanoGPT")),
    "transformers": Part(150, _rival("transformers")),
    "models": Part(240, _models),
    "train 355M": Part(150, _train("train 355M")),
    "train window 256": Part(150, _train("train window 256")),
}
"""In order: what says most comes first."""


def main() -> None:
    """Make one part."""
    parser = argparse.ArgumentParser(description="One part of experiments.gpu_day.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", type=json.loads, default={})
    parser.add_argument("--nanogpt", type=Path)
    given = parser.parse_args()
    for name, row in PARTS[given.part].rows(Context(given.device, given.nanogpt)):
        print(MARK + json.dumps({name: finite(row)}), flush=True)


def finite(value: Any) -> Any:
    """The same without numbers that JSON does not have: a wrong program may give NaN."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
