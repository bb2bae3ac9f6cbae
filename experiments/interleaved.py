"""Two programs timed in turns, so that a machine whose speed drifts cannot favour one of them."""

import statistics
import time
from collections.abc import Callable

Program = Callable[[], object]


def times_as_fast(other: Program, baseline: Program, rounds: int) -> dict[str, float]:
    """How many times as fast `other` is: medians over rounds in the order ABBA, after a warm-up of both.

    wall: by the clock, which other work on the machine disturbs. processor: by processor time of all threads, which
    it disturbs less; it counts work, not waiting.
    """
    for program in (baseline, other):
        program()
    ratios = []
    for turn in range(rounds):
        pair = (baseline, other) if turn % 2 == 0 else (other, baseline)
        spent = {program: seconds(program) for program in pair}
        ratios.append([a / b for a, b in zip(spent[baseline], spent[other], strict=True)])
    wall, processor = zip(*ratios, strict=True)
    return {
        "wall": statistics.median(wall),
        "wall_low": min(wall),
        "wall_high": max(wall),
        "processor": statistics.median(processor),
    }


def seconds(program: Program) -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    program()
    return time.perf_counter() - wall, time.process_time() - processor
