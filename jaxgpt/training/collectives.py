"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
SHAPE = re.compile(r"\b(" + "|".join(BYTES) + r")\[([0-9,]*)\]")


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
    bodies, entry = _computations(hlo)
    return list(_walk(bodies, entry, 1))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name and " = " in line:
            bodies[name].append(line)
    return bodies, entry


def _walk(bodies: dict[str, list[str]], name: str, times: int) -> Iterator[Collective]:
    for line in bodies[name]:
        inner = 1
        if re.search(r"\bwhile\(", line):
            known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            inner = int(known[1]) if known else 1
        for called in re.findall(r"(?:body|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)", line):
            yield from _walk(bodies, called, times * inner)
        if found := re.search(r"= (.*?) (" + "|".join(KINDS) + r")(-start)?\(", line):
            yield _collective(line, found[1], found[2], is_start=found[3] is not None, times=times)


def _collective(line: str, result: str, kind: str, *, is_start: bool, times: int) -> Collective:
    shapes = [(BYTES[dtype], tuple(int(n) for n in axes.split(",") if n)) for dtype, axes in SHAPE.findall(result)]
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
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    raise AssertionError(f"XLA has another way to write groups: {line}")
