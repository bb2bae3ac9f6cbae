"""Programs compiled for an H200 on a machine that has none, and what they would do there.

What can be read: kernels, the bytes they read and write (an upper bound: the cache is not modelled), memory,
collectives, what is donated, which attention was called. What cannot: time, autotuning's choices (switched off here),
whether cuDNN has an engine for a shape.
"""

import collections
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from jaxgpt.inspect.collectives import by_kind, collectives
from jaxgpt.inspect.hlo import computations, size, turns


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


FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "iota", "after-all"}


def traffic(program: str, *, one_turn: bool = False) -> Traffic:
    """Counts over the text of a compiled program; with `one_turn`, over one turn of its outermost loop alone.

    A slice or an update in place counts twice the piece it moves. Our own kernels that write a slot of an operand in
    place count their other operands and results.
    """
    bodies, entry = computations(program)
    if one_turn:
        loop = next(found for found in _instructions(bodies[entry]) if found.op == "while")
        entry = re.search(r"body=%?([\w.\-]+)", loop.line)[1]
    counts: collections.Counter[str] = collections.Counter()
    moved = counts.copy()

    def walk(name: str, times: int) -> None:
        for found in _instructions(bodies[name]):
            if found.op == "while":
                walk(re.search(r"body=%?([\w.\-]+)", found.line)[1], times * turns(found.line))
                continue
            target = re.search(r'custom_call_target="([^"]+)"', found.line)
            label = target[1] if target else found.op
            counts[label] += times
            moved[label] += times * _moved(found, bodies)

    walk(entry, 1)
    kinds = {label: [counts[label], round(total / 1e9, 3)] for label, total in moved.most_common()}
    return Traffic(counts.total(), round(moved.total() / 1e9, 3), kinds)


def _moved(found: Instruction, bodies: dict[str, list[str]]) -> int:
    written = size(re.sub(r"\bs8\[\d+\]", "", found.type))  # without the scratch space of a matrix product
    read = list(map(size, found.operands))
    if re.search(r'op_name="[^"]*(dynamic_(update_)?slice|/scatter)"', found.line):
        return 2 * min((piece for piece in (written, *read) if piece > 64), default=0)
    if in_place := re.search(r"output_to_operand_aliasing={(.*?\)) *}", found.line):
        results = re.findall(r"\w+\[[\d,]*\]", found.type)
        for result, operand in re.findall(r"{(\d*)}: \((\d+)", in_place[1]):
            written -= size(results[int(result or 0)])
            read[int(operand)] = 0
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


def _instructions(lines: list[str]) -> Iterator[Instruction]:
    """Those that move bytes, in order."""
    types: dict[str, str] = {}
    for line in lines:
        name, rest = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)", line).groups()
        cut = _tuple_end(rest) if rest.startswith("(") else rest.index(" ")
        types[name], call = rest[:cut], rest[cut + 1 :]
        head = re.match(r"([\w\-]+)\(([^)]*)\)", call)
        if head and head[1] not in FREE and not head[1].endswith("-done"):
            words = re.sub(r"/\*.*?\*/", "", head[2]).split(",")  # every fifth is counted in a comment
            operands = [types.get(word.strip().split(" ")[-1].lstrip("%"), "") for word in words]
            yield Instruction(name, types[name], head[1], operands, line)


def _tuple_end(text: str) -> int:
    depth = 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return at + 1
    raise AssertionError("XLA closes its brackets")


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
        "collectives": {
            kind: [sent.times, round(sent.bytes / 1e6, 1)] for kind, sent in by_kind(collectives(text)).items()
        },
        "attention_forward": text.count('custom_call_target="__cudnn$fmhaSoftmax"'),
        "attention_backward": text.count('custom_call_target="__cudnn$fmhaSoftmaxBackward"'),
        "masks": sorted(set(re.findall(r'"mask_type": ?"(\w+)"', text))),
        "windows": sorted({int(n) for n in re.findall(r'"sliding_window_length": ?(\d+)', text)}),
        "scatters": sorted(re.findall(r"= (\w+\[[\d,]*\])\S* scatter\(", text)),
        "loops": len(re.findall(r" while\(", text)),
    }
