"""Two programs timed in turns, so that a machine whose speed drifts cannot favour one of them."""

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

Program = Callable[[], object]
Side = TypeVar("Side")
Seconds = tuple[float, float]
"""By the clock, and of all threads."""

REST = 0.4
"""Seconds of sleep before each timing. The threads of the program before spin for up to 0.2 seconds when they have
nothing to do (OpenMP's do), and take a core from the one that is timed."""


def times_as_fast(other: Program, baseline: Program, rounds: int) -> dict[str, float]:
    """How many times as fast `other` is: medians over rounds in the order ABBA, after a warm-up of both.

    wall: by the clock, which other work on the machine disturbs. processor: by processor time of all threads, which
    it disturbs less; it counts work, not waiting. The seconds of both come after the ratios.
    """
    for program in (baseline, other):
        program()
    ours, theirs = (np.array(side) for side in in_turns(other, baseline, rounds))
    wall, processor = (theirs / ours).T
    mine, its = (np.median(side, axis=0).tolist() for side in (ours, theirs))
    return {
        "wall": float(np.median(wall)),
        "wall_low": float(wall.min()),
        "wall_high": float(wall.max()),
        "processor": float(np.median(processor)),
        "seconds": mine[0],
        "processor_seconds": mine[1],
        "seconds_of_baseline": its[0],
        "processor_seconds_of_baseline": its[1],
    }


def in_turns(one: Program, other: Program, rounds: int) -> tuple[list[Seconds], list[Seconds]]:
    """The seconds of each round of both, in the order ABBA."""
    spent: dict[Program, list[Seconds]] = {one: [], other: []}
    for program in turns(one, other, rounds):
        time.sleep(REST)
        spent[program].append(seconds(program))
    return spent[one], spent[other]


def turns(one: Side, other: Side, rounds: int) -> Iterator[Side]:
    """Each of both once a round, in the order ABBA."""
    for turn in range(rounds):
        yield from (one, other) if turn % 2 == 0 else (other, one)


def seconds(program: Program) -> Seconds:
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    program()
    return time.perf_counter() - wall, time.process_time() - processor
