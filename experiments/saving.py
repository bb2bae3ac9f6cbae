"""What does a checkpoint cost the steps that run while it is written?

    python -m experiments.saving

Steps of the quickstart preset are timed in turns: a round with nothing else going on, and a round during which
a save is under way, begun before its first step. Printed are the medians, the time that `save` itself holds the loop
(the copy out of the devices' memory), and how long the writing takes. What it does not show: a network's file system.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import tyro

from experiments import evidence
from jaxgpt.data import Batches, prepare
from jaxgpt.parallel.mesh import one_device
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import initial_state, make_step

STEPS = 5
"""In a round."""


def main(rounds: int = 8, preset: str = "quickstart", write: bool = True) -> None:
    """Time steps with and without a save in flight.

    Args:
        rounds: Of each kind.
        preset: What is trained.
        write: Save the result beside the others.
    """
    environment = evidence.environment("python -m experiments.saving")
    config, mesh = TrainConfig.preset(preset), one_device()
    data = prepare(config.data.source, config.data.tokenizer)
    batches = Batches(data.train, config.batch_size, config.model.context_length, config.seed)
    state = initial_state(config, mesh)
    step = make_step(config, mesh).lower(state, batches(0)).compile()
    quiet, busy, held, written = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        for turn in range(2 * rounds + 2):
            began = time.perf_counter()
            if turn % 2:
                checkpoints.save(state, 0.0)
                held.append(time.perf_counter() - began)
            for number in range(STEPS):
                start = time.perf_counter()
                state, metrics = step(state, batches(turn * STEPS + number))
                jax.block_until_ready(metrics)
                if turn > 1:
                    (busy if turn % 2 else quiet).append(time.perf_counter() - start)
            checkpoints.wait()
            if turn % 2:
                written.append(time.perf_counter() - began)
    result = {
        "preset": preset,
        "megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6,
        "seconds_per_step": statistics.median(quiet),
        "seconds_per_step_during_a_save": statistics.median(busy),
        "seconds_that_save_holds_the_loop": statistics.median(held[1:]),
        "seconds_until_written_at_most": statistics.median(written[1:]),
        "environment": environment,
    }
    print(json.dumps(result, indent=1))
    if write:
        evidence.write("saving", result)


if __name__ == "__main__":
    tyro.cli(main)
