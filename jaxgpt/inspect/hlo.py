"""The text of a compiled program, read."""

import math
import re

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
BYTES |= {"s64": 8, "u64": 8, "f64": 8}
SHAPE = re.compile(r"\b(" + "|".join(BYTES) + r")\[([0-9,]*)\]")


def computations(program: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the one that is run."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name and " = " in line:
            bodies[name].append(line)
    return bodies, entry


def arrays(types: str) -> list[tuple[int, tuple[int, ...]]]:
    """The arrays whose types are written in a text: bytes of a number, and shape."""
    return [(BYTES[kind], tuple(int(n) for n in axes.split(",") if n)) for kind, axes in SHAPE.findall(types)]


def size(types: str) -> int:
    """Bytes of all the arrays whose types are written in a text."""
    return sum(width * math.prod(shape) for width, shape in arrays(types))


def turns(loop: str) -> int:
    """How often the loop on a line runs; 1, where XLA does not know."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop)
    return int(known[1]) if known else 1
