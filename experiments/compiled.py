"""Programs compiled for an H200 on a machine that has none, and what they would do there.

What can be read: kernels, the bytes they read and write (an upper bound: the cache is not modelled), memory,
collectives, what is donated, which attention was called. What cannot: time, autotuning's choices (switched off here),
whether cuDNN has an engine for a shape.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxgpt.training.collectives import collectives


class Traffic(NamedTuple):
    """What the kernels of a program do, loop bodies counted once per turn."""

    kernels: int
    gigabytes: float
    kinds: dict[str, list[float]]
    """Of each kind of kernel, how many and their gigabytes."""


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    type: str
    op: str
    operands: list[str]
    """Their types."""
    line: str


BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
SHAPE = re.compile(r"\b(" + "|".join(BYTES) + r")\[([0-9,]*)\]")
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "after-all"}


def traffic(program: str, *, one_turn: bool = False) -> Traffic:
    """Counts over the text of a compiled program; with `one_turn`, over one turn of its outermost loop alone.

    A slice or an update in place counts twice the piece it moves.
    """
    bodies, entry = _computations(program)
    if one_turn:
        loop = next(found for found in _instructions(bodies[entry]) if found.op == "while")
        entry = re.search(r"body=%?([\w.\-]+)", loop.line)[1]
    counts: collections.Counter[str] = collections.Counter()
    moved = counts.copy()

    def walk(name: str, turns: int) -> None:
        for found in _instructions(bodies[name]):
            if found.op == "while":
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', found.line)
                body = re.search(r"body=%?([\w.\-]+)", found.line)
                walk(body[1], turns * (int(known[1]) if known else 1))
                continue
            target = re.search(r'custom_call_target="([^"]+)"', found.line)
            label = target[1] if target else found.op
            counts[label] += turns
            moved[label] += turns * _moved(found, bodies)

    walk(entry, 1)
    kinds = {label: [counts[label], round(total / 1e9, 3)] for label, total in moved.most_common()}
    return Traffic(counts.total(), round(moved.total() / 1e9, 3), kinds)


def _moved(found: Instruction, bodies: dict[str, list[str]]) -> int:
    written = size(re.sub(r"\bs8\[\d+\]", "", found.type))  # without the scratch space of a matrix product
    read = list(map(size, found.operands))
    if re.search(r'op_name="[^"]*dynamic_(update_)?slice"', found.line):
        return 2 * min((piece for piece in (written, *read) if piece > 64), default=0)
    if fused := re.search(r"calls=%?([\w.\-]+)", found.line):
        for at, rows in _gathered(bodies[fused[1]]).items():
            read[at] = min(rows, read[at])
    return written + sum(read)


def _gathered(lines: list[str]) -> dict[int, int]:
    """Of the arguments of a fusion that it takes only some rows of: their number, and how many bytes it takes."""
    arguments, rows, users = {}, collections.Counter(), collections.Counter()
    for line in lines:
        if found := re.match(r"\s*%?([\w.\-]+) = \S+ parameter\((\d+)\)", line):
            arguments[found[1]] = int(found[2])
            continue
        result, call = line.split(" = ", 1)[1].split(" ", 1)
        for name in set(re.findall(r"%?([\w.\-]+)", call[: call.find(")")])) & arguments.keys():
            taken = re.match(rf"(?:gather|dynamic-slice)\(%?{re.escape(name)},", call)
            users[name] += not taken
            rows[name] += size(result) if taken else 0
    return {at: rows[name] for name, at in arguments.items() if rows[name] and not users[name]}


def size(types: str) -> int:
    """Bytes of all the arrays whose types are written in a text."""
    return sum(BYTES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in SHAPE.findall(types))


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry, name = "", ""
    for line in program.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name and " = " in line:
            bodies[name].append(line)
    return bodies, entry


def _instructions(lines: list[str]) -> Iterator[Instruction]:
    """Those that move bytes, in order."""
    types: dict[str, str] = {}
    for line in lines:
        name, rest = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line).groups()
        cut = _tuple_end(rest) if rest.startswith("(") else rest.index(" ")
        types[name], call = rest[:cut], rest[cut + 1 :]
        head = re.match(r"([\w\-]+)\(([^)]*)\)", call)
        if head and head[1] not in FREE and not head[1].endswith("-done"):
            operands = [types.get(word.strip().split(" ")[-1].lstrip("%"), "") for word in head[2].split(",")]
            yield Instruction(name, types[name], head[1], operands, line)


def _tuple_end(text: str) -> int:
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at + 1
    raise AssertionError("XLA closes its brackets")


def sent(program: str) -> dict[str, list[float]]:
    """Of each kind of collective, how many run in a step and the megabytes of the arrays that are sent."""
    found = collectives(program)
    kinds = sorted({each.kind for each in found})
    chosen = {kind: [each for each in found if each.kind == kind] for kind in kinds}
    return {
        kind: [sum(each.times for each in some), round(sum(each.times * each.bytes for each in some) / 1e6, 1)]
        for kind, some in chosen.items()
    }


def facts(compiled: Any) -> dict[str, Any]:
    """Of a compiled program: traffic, memory, attention calls, scatters, loops."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    moved = traffic(text)
    return {
        "kernels": moved.kernels,
        "gigabytes": round(moved.gigabytes, 1),
        "temporary_gigabytes": round(memory.temp_size_in_bytes / 1e9, 2),
        "donated_bytes": memory.alias_size_in_bytes,
        "kinds": moved.kinds,
        "collectives": sent(text),
        "attention_forward": text.count('custom_call_target="__cudnn$fmhaSoftmax"'),
        "attention_backward": text.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"'),
        "masks": sorted(set(re.findall(r'"mask_type": ?"(\w+)"', text))),
        "windows": sorted({int(n) for n in re.findall(r'"sliding_window_length": ?(\d+)', text)}),
        "scatters": sorted(re.findall(r"= (\w+\[[\d,]*\])\S* scatter\(", text)),
        "loops": len(re.findall(r" while\(", text)),
    }
