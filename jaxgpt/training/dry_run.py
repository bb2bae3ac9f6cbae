"""What a run would cost: everything up to its first step is done, and a few steps on a copy of its state are timed."""

import dataclasses
import math
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh
from rich.console import Console

from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.runtime.host_memory import LARGEST_KEPT, host_memory_limit, return_freed_memory
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.display import busy, duration
from jaxgpt.training.memory import CURE, memory_limit
from jaxgpt.training.metrics import utilisation_per_token
from jaxgpt.training.state import TrainState, abstract_state
from jaxgpt.training.trainer import Trainer

TIMED_STEPS = 5
"""After one that is not timed."""
LONG_STEP = 3e11
"""Operations of a step that takes some seconds on a CPU; a longer one is predicted from steps of fewer sequences."""


class Cost(NamedTuple):
    """Seconds, and bytes of one device; on CPUs, which share memory, of all devices of this process."""

    compiling: float
    step: float
    validation: float
    rows: int
    """Sequences of the steps that were timed. Fewer than the batch size: `step` and `validation` are predicted."""
    needed: int
    """While the compiled step runs."""
    state: int
    """Of that, parameters and the optimizer's state."""
    peak: int
    """The most that was in use."""
    saved: int
    """A checkpoint's."""


def measure(trainer: Trainer, console: Console, weights: Callable[[], TrainState] | None = None) -> Cost:
    """Compile a run's programs and time steps on a state that is thrown away; nothing is written."""
    began = time.perf_counter()
    with busy(console, "compiling"):
        trainer.compile()
    compiling, needed = time.perf_counter() - began, memory_needed(trainer.compiled[0])
    if needed > LARGEST_KEPT:
        return_freed_memory()
    smaller = _smaller(trainer)
    with busy(console, f"timing {TIMED_STEPS} steps of {smaller.config.batch_size} sequences"):
        state = _first_state(smaller, weights)
        step, validation = _time(smaller, state)
    factor = trainer.config.batch_size / smaller.config.batch_size
    like = abstract_state(trainer.config, trainer.mesh, trainer.optimizer)
    sharing = trainer.mesh.local_mesh.size if memory_limit(trainer.mesh) is None else 1
    return Cost(
        compiling,
        step * factor,
        validation * factor * trainer.config.eval_batches,
        smaller.config.batch_size,
        needed * sharing,
        bytes_per_device(like) * sharing,
        _peak_memory(trainer.mesh),
        sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(like)),
    )


def _smaller(trainer: Trainer) -> Trainer:
    """The same run with a sequence per device, where its own steps would take long."""
    config, mesh = trainer.config, trainer.mesh
    operations = flops_per_token(config.model) * config.batch_size * config.model.context_length
    if mesh.devices.flat[0].platform != "cpu" or operations <= LONG_STEP or config.batch_size == mesh.size:
        return trainer
    return Trainer(
        dataclasses.replace(config, batch_size=mesh.size, microbatches=1, eval_tasks=None),
        mesh=mesh,
        optimizer=trainer.optimizer,
        loss=trainer.loss,
        data=trainer.data,
        teacher=trainer.teacher,
        vocabulary_by_hand=True,
    )


def _first_state(trainer: Trainer, weights: Callable[[], TrainState] | None) -> TrainState:
    latest = None if trainer.folder is None else trainer.checkpoints.latest
    if latest is not None:
        return trainer.restore(latest)
    return trainer.init() if weights is None else weights()


def _time(trainer: Trainer, state: TrainState) -> tuple[float, float]:
    """Seconds of a step and of a batch of validation. The state is used up."""
    trainer.validate(state, 1)  # compiles
    began = time.perf_counter()
    trainer.validate(state, 1)
    validation, steps = time.perf_counter() - began, []
    for number in range(1 + TIMED_STEPS):
        began = time.perf_counter()
        state, metrics = trainer.step(state, trainer.batch(number))
        jax.block_until_ready((state, metrics))
        steps.append(time.perf_counter() - began)
    return statistics.median(steps[1:]), validation


def _peak_memory(mesh: Mesh) -> int:
    peak = (mesh.local_mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak is not None:
        return int(peak)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def print_cost(trainer: Trainer, cost: Cost, console: Console) -> None:
    """The cost for people, a row for each resource."""
    config, folder = trainer.config, trainer.run.folder
    done = (trainer.checkpoints.latest or 0) if folder.exists() else 0
    for name, value in cost_rows(config, trainer.mesh, cost, max(config.steps - done, 0), folder).items():
        console.print(f"{name:<7} {value}", soft_wrap=True)
    console.print("nothing was written; without --dry-run the same line trains", soft_wrap=True)


def cost_rows(config: TrainConfig, mesh: Mesh, cost: Cost, steps: int, folder: Path) -> dict[str, str]:
    """What a step and the run take: time, memory of a device, disk."""
    speed = config.batch_size * config.model.context_length / cost.step
    how = f"median of {TIMED_STEPS}"
    if cost.rows < config.batch_size:
        how = f"predicted: {TIMED_STEPS} steps of {cost.rows} of the {config.batch_size} sequences were timed"
    used = {name: 100 * speed * each for name, each in utilisation_per_token(config, mesh.size).items()}
    share = ", MFU {mfu:.1f} % ({mfu_causal:.1f} causal)".format(**used) if used else ""
    validations = -(-steps // config.eval_every) + (steps == config.steps)
    training, validating = steps * cost.step, validations * cost.validation
    total = cost.compiling + training + validating
    limit, place = memory_limit(mesh), "each device"
    if limit is None:
        limit, place = host_memory_limit(), "this machine"
    cure = f": too little, {CURE.format(microbatches=config.microbatches)}" if cost.needed > limit else ""
    kept = min(validations, config.keep_checkpoints + 1)
    mounted = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return {
        "step": f"{_seconds(cost.step)}: {speed:,.0f} tokens/s{share} ({how})",
        "time": f"{duration(total)}: {steps:,} steps {duration(training)}, {validations} validations "
        f"{duration(validating)}, compiling {duration(cost.compiling)}",
        "memory": f"{_size(cost.needed)} in a step, {_size(cost.state)} of it state; at most {_size(cost.peak)} "
        f"were in use; {place} has {_size(limit)}{cure}",
        "disk": f"{kept} checkpoints of {_size(cost.saved)}; {_size(shutil.disk_usage(mounted).free)} are free",
    }


def _seconds(seconds: float) -> str:
    """In a unit that suits.

    >>> _seconds(0.00312), _seconds(0.21), _seconds(95)
    ('3.1 ms', '210 ms', '1 min 35 s')
    """
    if seconds >= 10:
        return duration(seconds)
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def _size(number: float) -> str:
    """Bytes in a unit that suits.

    >>> _size(230_400), _size(41_000_000), _size(2_000_000_000), _size(25.3e9)
    ('230 kB', '41 MB', '2 GB', '25.3 GB')
    """
    unit, size = next(((name, size) for name, size in (("GB", 1e9), ("MB", 1e6)) if number >= size), ("kB", 1e3))
    return f"{number / size:.3g} {unit}"
