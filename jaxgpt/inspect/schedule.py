"""What a compiled program computes while it sends, read from the order of its instructions."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxgpt.inspect.collectives import KINDS, Collective, read_collective
from jaxgpt.inspect.hlo import arrays, computations, turns

BACKWARD = 2.5
"""Products of attention's backward pass for one of its forward pass: five for two."""


class Event(NamedTuple):
    """One instruction that takes time, in the order in which it is issued."""

    name: str
    flops: float
    """Of a product or of attention; of a loop, all that is in it."""
    start: Collective | None
    """What it starts to send. An operation that does not return before all is sent starts it and waits."""
    waits_for: str | None
    """The start whose end it waits for."""


def events(hlo: str) -> list[Event]:
    """The products and collectives of a compiled program (`compiled.as_text()`), in order; loops turn by turn."""
    return list(_walk(*computations(hlo)))


def hidden_bytes(schedule: list[Event]) -> tuple[int, int]:
    """Bytes that are sent while at least one product is computed, and bytes sent in all (sizes of whole arrays)."""
    hidden = total = 0
    for at, event in enumerate(schedule):
        if event.start is None:
            continue
        total += event.start.bytes
        for later in schedule[at:]:
            if later.waits_for == event.name:
                break
            if later.flops:
                hidden += event.start.bytes
                break
    return hidden, total


def step_seconds(schedule: list[Event], flops_per_second: float, bytes_per_second: float) -> tuple[float, float]:
    """Seconds of computing, and of the step with the waits for what is sent: one array at a time, in order."""
    now = computing = network_is_free = 0.0
    ends: dict[str, float] = {}
    for event in schedule:
        now, computing = now + event.flops / flops_per_second, computing + event.flops / flops_per_second
        if event.start is not None:
            network_is_free = max(now, network_is_free) + event.start.wire_bytes / bytes_per_second
            ends[event.name] = network_is_free
        if event.waits_for is not None:
            now = max(now, ends[event.waits_for])
    return computing, max(now, network_is_free)


def _walk(bodies: dict[str, list[str]], name: str, prefix: str = "") -> Iterator[Event]:
    types: dict[str, str] = {}
    for line in bodies[name]:
        result, rest = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line).groups()  # type: ignore[union-attr]
        found = re.match(r"(\(.*?\)|\S+) ([\w\-]+)\(([^)]*)\)", re.sub(r"/\*.*?\*/", "", rest))
        if found is None:
            continue
        types[result], operation = found[1], found[2]
        operands = [word.strip().split(" ")[-1].lstrip("%") for word in found[3].split(",")]
        kind = re.sub(r"-(start|done)$", "", operation)
        if operation == "while":
            body = re.search(r"body=%?([\w.\-]+)", line)[1]  # type: ignore[index]
            for turn in range(turns(line)):
                yield from _walk(bodies, body, f"{prefix}{result}.{turn}.")
        elif called := re.search(r"\bcall\(.*to_apply=%?([\w.\-]+)", line):
            yield from _walk(bodies, called[1], f"{prefix}{result}.")
        elif operation.endswith("-done"):
            yield Event(prefix + result, 0, None, prefix + operands[0])
        elif kind in KINDS:
            waits = None if operation.endswith("-start") else prefix + result
            yield Event(prefix + result, 0, read_collective(line), waits)
        elif flops := _flops(operation, line, found[1], [types.get(operand, "") for operand in operands]):
            yield Event(prefix + result, flops, None, None)


def _flops(operation: str, line: str, result: str, operands: list[str]) -> float:
    """Of a product or of cuDNN's attention: [m, k] by [k, n] is 2 mkn, twice the root of the product of all sizes."""
    if "__cudnn$fmha" in line:
        ((_, (batch, length, *heads)), *_) = arrays(operands[0])
        forward = 2.0 * batch * length * length * math.prod(heads)  # causal
        return BACKWARD * forward if "Backward" in line else forward
    if operation != "dot" and not re.search(r'custom_call_target="__(cublas|onednn|cudnn\$conv)', line):
        return 0
    sizes = [math.prod(arrays(text)[0][1]) for text in (result, *operands[:2])]
    return 2 * math.sqrt(math.prod(sizes))
