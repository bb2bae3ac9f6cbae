"""The training loop: validation, saving, stopping and going back live here; the mathematics is in step.py."""

import math
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from rich.console import Console

from jaxgpt.data import Batches, TokenData, device_put_batch, eval_batches
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.parallel.mesh import check_batch
from jaxgpt.parallel.sharding import shard
from jaxgpt.parallel.value_and_grad import mean_loss
from jaxgpt.runtime import watchdog
from jaxgpt.runtime.host_memory import LARGEST_KEPT, return_freed_memory
from jaxgpt.runtime.signals import Stops, stop_signals
from jaxgpt.training.checkpoint import Checkpoints, SaveFailed
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import BadNumbers, Reporter
from jaxgpt.training.run import Run, resume_command
from jaxgpt.training.step import (
    Metrics,
    TrainState,
    abstract_batch,
    abstract_state,
    compile_step,
    describe_attention,
    initial_state,
    memory_limit,
    memory_needed,
)

MOST_REWINDS = 10
"""In one go; where this does not help, the data are not the reason."""


class TrainingStopped(Exception):  # noqa: N818  being told to stop is no error
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name} after step {step}")
        self.step, self.signal = step, number


@dataclass(frozen=True)
class Program:
    """What a run computes: the compiled step, and the loss on held-back text."""

    step: Callable[[TrainState, Array], tuple[TrainState, Metrics]]
    batch: Callable[[int], Array]
    validate: Callable[..., float]
    """Of a model, on all held-back batches or on the first so many."""


def train(run: Run, data: TokenData, mesh: Mesh, console: Console, teacher: GPT | None = None) -> GPT:
    """Take a run from its newest checkpoint, or from nothing, to its last step; returns the model, cut over the mesh.

    With a teacher, the model learns its distributions instead of the text's tokens; validation is on the text.
    Raises TrainingStopped after SIGINT or SIGTERM, and ValueError where numbers are bad and the config does not say to
    go on, where another process is lost, or a checkpoint cannot be written. Whatever happens, the newest whole
    checkpoint stays usable.
    """
    config = run.config
    cure = f"whole checkpoints are kept, start all processes again with {resume_command(run.folder)}"
    watchdog.start()
    watchdog.set_cure(cure)
    with Checkpoints(run.checkpoints, config.keep_checkpoints, config.keep_every) as checkpoints:
        state, program = _setup(run, data, mesh, console, checkpoints, teacher)
        rewinds = 0
        with stop_signals() as stops:
            while int(state.step) < config.steps:
                try:
                    state = _train_until(state, run, program, checkpoints, console, stops)
                except BadNumbers as bad:
                    if config.on_nonfinite != "rewind" or rewinds == MOST_REWINDS:
                        raise
                    rewinds += 1
                    state = _roll_back(bad, run, checkpoints, mesh, console)
            with _as_configured(config, console):
                checkpoints.wait()
    return state.model


def _train_until(
    state: TrainState, run: Run, program: Program, checkpoints: Checkpoints, console: Console, stops: Stops
) -> TrainState:
    """Take the state to the last step of the config."""
    config, start, data_offset = run.config, int(state.step), int(state.data_offset)
    late = None
    with Reporter(run, start, console) as reporter:
        for done in range(start + 1, config.steps + 1):
            state, metrics = program.step(state, program.batch(done - 1 + data_offset))
            reporter.stepped(done, metrics)
            if late:  # fetched one step late, so that the device never waits for the host
                reporter.report(*late)
            late = (done, metrics)
            stop = stops.after(done)
            if done % config.eval_every == 0 or done == config.steps:
                jax.block_until_ready(state)
                with reporter.clock_stopped():
                    val_loss = program.validate(state.model)
                reporter.report(done, metrics, val_loss)
                with reporter.clock_stopped(), _as_configured(config, console):
                    checkpoints.save(state, val_loss)
                late = None
            elif stop:
                reporter.report(done, metrics)
                checkpoints.save(state, math.inf)
            if stop:
                checkpoints.wait()
                raise TrainingStopped(done, stop)
    return state


@contextmanager
def _as_configured(config: TrainConfig, console: Console) -> Iterator[None]:
    """Within, a checkpoint that cannot be written is told, and ends the run unless the config says to go on."""
    try:
        yield
    except SaveFailed as failed:
        if config.on_failed_save == "stop":
            raise
        console.print(f"{failed}; going on without it", soft_wrap=True)


def _setup(
    run: Run, data: TokenData, mesh: Mesh, console: Console, checkpoints: Checkpoints, teacher: GPT | None
) -> tuple[TrainState, Program]:
    """The first state, validated where it is fresh, and the programs.

    They are made at once: Python traces one while another is compiled and the devices draw the weights or validate.
    """
    config = run.config
    teacher = None if teacher is None else shard(teacher, mesh)
    like, tokens = abstract_state(config, mesh), abstract_batch(config, mesh)
    with ThreadPoolExecutor() as beside:
        made = beside.submit(_init_or_restore, run, checkpoints, mesh, console)
        batches = Batches(data.train, config.batch_size, config.model.context_length, config.seed)
        validate = _validation(config, data, mesh, like.model, tokens)
        compiled = beside.submit(compile_step, config, mesh, like, tokens, teacher, limit=memory_limit(mesh))
        state = made.result()
        before = validate(state.model, 1) if int(state.step) == 0 else None
        step, remat = compiled.result()
    if memory_needed(step) > LARGEST_KEPT:
        return_freed_memory()
    if remat == "block" != config.remat:
        console.print(f"remat: {remat}", highlight=False)
    if before is not None:
        console.print(f"validation loss before training: {before:.3f} nats per token (one batch)", highlight=False)

    def batch(number: int) -> Array:
        return device_put_batch(partial(batches, number), tokens.shape, tokens.sharding)

    return state, Program(lambda state, tokens: step(state, tokens, teacher), batch, validate)


def _validation(
    config: TrainConfig, data: TokenData, mesh: Mesh, model: GPT, tokens: jax.ShapeDtypeStruct
) -> Callable[..., float]:
    """The loss of a model like this on all held-back batches or on the first so many, compiled."""
    of_batch = mean_loss(next_token_loss, mesh, microbatches=config.microbatches)
    loss = jax.jit(of_batch).lower(model, tokens).compile()
    held_back = eval_batches(data.validation, config.batch_size, config.model.context_length, config.eval_batches)

    def validate(model: GPT, count: int | None = None) -> float:
        losses = [
            loss(model, device_put_batch(texts.__getitem__, tokens.shape, tokens.sharding))[0]
            for texts in held_back[:count]
        ]
        return float(np.mean(losses, dtype=float))

    return validate


def check_can_train(config: TrainConfig, data: TokenData, mesh: Mesh) -> None:
    """Raise ValueError where training would fail later on: batch or text too short, backend or package not there."""
    check_batch(config.batch_size, mesh.size, config.microbatches)
    for part in (data.train, data.validation):
        eval_batches(part, 1, config.model.context_length, 1)
    describe_attention(config.model)
    if config.wandb and find_spec("wandb") is None:
        raise ValueError("--wandb needs the package: pip install 'jaxgpt[wandb]'")


def _init_or_restore(run: Run, checkpoints: Checkpoints, mesh: Mesh, console: Console) -> TrainState:
    if checkpoints.latest is None:
        return initial_state(run.config, mesh)
    if checkpoints.latest == 0:
        console.print(f"starting from the weights of {run.config.init}", highlight=False, soft_wrap=True)
    else:
        console.print(f"resuming after step {checkpoints.latest}", highlight=False)
    return checkpoints.restore_state(run.config, checkpoints.latest, mesh)


def _roll_back(bad: BadNumbers, run: Run, checkpoints: Checkpoints, mesh: Mesh, console: Console) -> TrainState:
    """The newest checkpoint's state, set to read on after the batch that went wrong."""
    checkpoints.wait()
    if checkpoints.latest is None:
        raise bad
    state = checkpoints.restore_state(run.config, checkpoints.latest, mesh)
    unread = bad.step - checkpoints.latest
    console.print(f"{bad.reason}: back to step {checkpoints.latest}, past {unread} batches", highlight=False)
    return state._replace(data_offset=state.data_offset + jnp.int32(unread))


def save_start(run: Run, model: GPT, mesh: Mesh) -> None:
    """Make a model the run's checkpoint of step 0: training starts from it, and nothing else is needed to resume."""
    state = initial_state(run.config, mesh)._replace(model=shard(model, mesh))
    with Checkpoints(run.checkpoints, run.config.keep_checkpoints) as checkpoints:
        checkpoints.save(state, math.inf)
        checkpoints.wait()
