"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from jaxgpt.inspect.hlo import arrays, computations, turns

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
OPERATION = r"= (.*?) (" + "|".join(KINDS) + r")(-start)?\("


class Collective(NamedTuple):
    """One operation between devices."""

    kind: str
    """One of KINDS."""
    bytes: int
    """Of the whole array: what is reduced, or what a gather ends with, or what a scatter begins with."""
    times: int
    """How often it runs in one step; more than once in a loop."""
    devices: int
    """How many take part in one group."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its results."""

    @property
    def wire_bytes(self) -> float:
        """What each device sends for it in one step, in a ring (Thakur et al. 2005)."""
        passes = 2 if self.kind == "all-reduce" else 1
        return self.times * passes * self.bytes * (self.devices - 1) / self.devices


def collectives(hlo: str) -> list[Collective]:
    """All collectives of a compiled program, from the text of its optimized HLO (`compiled.as_text()`)."""
    return list(_walk(*computations(hlo), 1))


class Sum(NamedTuple):
    """All the collectives of one kind."""

    times: int
    """In a step."""
    bytes: int
    """Of the arrays, each as often as it is sent."""


def by_kind(found: list[Collective]) -> dict[str, Sum]:
    """What there is of each kind."""
    return {
        kind: Sum(sum(each.times for each in some), sum(each.times * each.bytes for each in some))
        for kind in KINDS
        if (some := [each for each in found if each.kind == kind])
    }


def wire_bytes(found: list[Collective]) -> float:
    """What each device sends in a step."""
    return sum(each.wire_bytes for each in found)


def _walk(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[Collective]:
    for line in bodies[name]:
        inner = turns(line) if re.search(r"\bwhile\(", line) else 1
        for called in re.findall(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line):
            yield from _walk(bodies, called, times * inner)
        if re.search(OPERATION, line):
            yield read_collective(line, times)


def read_collective(line: str, times: int = 1) -> Collective:
    """The collective on a line of a program, or its start."""
    found = re.search(OPERATION, line)
    assert found is not None, f"this is no collective: {line}"
    result, kind, is_start = found[1], found[2], found[3] is not None
    shapes = arrays(result)
    if is_start and (result.startswith("((") or kind in ("all-gather", "collective-permute")):  # operands come first
        shapes = shapes[len(shapes) // 2 :]
    devices = _group_size(line)
    size = sum(width * math.prod(shape) for width, shape in shapes)
    whole = size * devices if kind == "reduce-scatter" else size
    return Collective(kind, whole, times, devices, tuple(shape for _, shape in shapes))


def _group_size(line: str) -> int:
    """How many devices are in one group. Groups are listed, or given as [groups,size]<=[...] or by axes of a mesh."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if short := re.search(r"replica_groups=\[(\d+),(\d+)\]", line):
        return int(short[2])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*\)\))? \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    raise AssertionError(f"XLA has another way to write groups: {line}")
