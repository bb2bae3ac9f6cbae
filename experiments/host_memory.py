"""How much faster is a training step on a CPU that keeps the memory it frees, and how much more does the process take?

    python -m experiments.host_memory

Processes in turns, one that keeps what it frees (`keep_freed_memory`) and one that leaves glibc as it is, each of which
trains for some steps. What it does not show: other C libraries, larger steps, which return their memory.
"""

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tyro

from experiments import evidence
from experiments.interleaved import seconds, turns
from jaxgpt.runtime.host_memory import keep_freed_memory

WARM_UP = 5
"""Steps before any is counted."""


def main(
    presets: tuple[str, ...] = ("quickstart", "shakespeare-char-cpu"),
    rounds: int = 8,
    seconds_each: float = 6,
    results: Path = evidence.RESULTS,
) -> dict:
    """Train with and without kept memory, in turns, and save the medians.

    Args:
        presets: What is trained.
        rounds: Pairs of processes.
        seconds_each: How long each of them trains, in seconds.
        results: Where the result goes.
    """
    result: dict = {"environment": evidence.environment("python -m experiments.host_memory"), "presets": {}}
    for preset in presets:
        found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        for kept in turns(True, False, rounds):
            found[kept].append(in_a_process_of_its_own(preset, kept, seconds_each))
        row = compared(found[True], found[False])
        print(f"{preset}: {evidence.rounded(row, 4)}", flush=True)
        result["presets"][preset] = row
    evidence.write("host-memory", result, results)
    return result


def compared(kept: list[dict[str, float]], usual: list[dict[str, float]]) -> dict:
    """Medians of both sides, and how many times as fast the first is, round by round."""
    ratios = {
        of: [theirs[of] / ours[of] for ours, theirs in zip(kept, usual, strict=True)]
        for of in ("seconds_per_step", "processor_seconds_per_step")
    }
    wall, processor = ratios.values()
    return {
        "times_as_fast": statistics.median(wall),
        "spread": [min(wall), max(wall)],
        "times_as_fast_by_processor_time": statistics.median(processor),
        "kept": {name: statistics.median(run[name] for run in kept) for name in kept[0]},
        "usual": {name: statistics.median(run[name] for run in usual) for name in usual[0]},
    }


def in_a_process_of_its_own(preset: str, kept: bool, seconds_each: float) -> dict[str, float]:
    """What `trained` measures in a fresh process: glibc has to be set before JAX starts."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(trained, preset, kept, seconds_each).result()


def trained(preset: str, kept: bool, seconds_each: float) -> dict[str, float]:
    """Train in this process; medians of the steps' seconds, their page faults, the largest memory of the process."""
    if kept:
        keep_freed_memory()
    from experiments.speed import our_step, timed_config

    config = timed_config(preset)
    update, _ = our_step(config)
    shape = (config.batch_size, config.model.context_length + 1)
    batch = np.random.default_rng(0).integers(0, config.model.vocab_size, shape)
    for _ in range(WARM_UP):
        update(batch)
    before, until, steps = page_faults(), time.perf_counter() + seconds_each, []
    while time.perf_counter() < until:
        steps.append(seconds(lambda: update(batch)))
    wall, processor = np.median(steps, axis=0).tolist()
    return {
        "seconds_per_step": wall,
        "processor_seconds_per_step": processor,
        "page_faults_per_step": (page_faults() - before) / len(steps),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def page_faults() -> int:
    """Those of this process so far that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


if __name__ == "__main__":
    tyro.cli(main)
