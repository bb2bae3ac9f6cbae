"""Two programs timed in turns, so that a machine whose speed drifts cannot favour one of them."""

import statistics
import time
from collections.abc import Callable

Program = Callable[[], object]
Seconds = tuple[float, float]
"""By the clock, and of all threads."""


REST = 0.4
"""Seconds of sleep before each timing. The threads of the program before spin for up to 0.2 seconds when they have
nothing to do (OpenMP's do), and take a core from the one that is timed."""


def times_as_fast(other: Program, baseline: Program, rounds: int) -> dict[str, float]:
    """How many times as fast `other` is: medians over rounds in the order ABBA, after a warm-up of both.

    wall: by the clock, which other work on the machine disturbs. processor: by processor time of all threads, which
    it disturbs less; it counts work, not waiting.
    """
    for program in (baseline, other):
        program()
    pairs = zip(*in_turns(baseline, other, rounds), strict=True)
    wall, processor = zip(*([a / b for a, b in zip(*pair, strict=True)] for pair in pairs), strict=True)
    return {
        "wall": statistics.median(wall),
        "wall_low": min(wall),
        "wall_high": max(wall),
        "processor": statistics.median(processor),
    }


def in_turns(one: Program, other: Program, rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """The seconds of each round of both, in the order ABBA."""
    spent: dict[Program, list[Seconds]] = {one: [], other: []}
    for turn in range(rounds):
        for program in (one, other) if turn % 2 == 0 else (other, one):
            time.sleep(REST)
            spent[program].append(seconds(program))
    return spent[one], spent[other]


def seconds(program: Program) -> Seconds:
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    program()
    return time.perf_counter() - wall, time.process_time() - processor
