"""The training loop: signals, validation and saving live here; the mathematics is in step.py."""

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType

import jax
from rich.console import Console

from jaxgpt.data import Batches, TokenData, fixed_batches
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import mean_loss
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import Reporter
from jaxgpt.training.run import Run
from jaxgpt.training.step import TrainState, describe_attention, initial_state, make_step


class TrainingStopped(Exception):  # noqa: N818  being told to stop is no error
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name} after step {step}")
        self.step, self.signal = step, number


def train(run: Run, data: TokenData, console: Console, teacher: GPT | None = None) -> GPT:
    """Take a run from its newest checkpoint, or from nothing, to its last step; returns the model.

    With a teacher, the model learns its distributions instead of the text's tokens; validation is on the text.
    Raises TrainingStopped after SIGINT or SIGTERM, and ValueError where the loss is no longer finite or a checkpoint
    cannot be written. Whatever happens, the newest whole checkpoint stays usable.
    """
    config, length = run.config, run.config.model.context_length
    batches = Batches(data.train, config.batch_size, length, config.seed)
    held_back = fixed_batches(data.validation, config.batch_size, length, config.eval_batches)
    with Checkpoints(run.checkpoints, config.keep_checkpoints) as checkpoints:
        state = _first_state(run, checkpoints, console)
        start = int(state.step)
        if start == 0:
            before = mean_loss(state.model, held_back)
            console.print(f"validation loss before training: {before:.3f} nats per token", highlight=False)
        step = make_step(config).lower(state, batches(start), teacher).compile()
        late = None
        with Reporter(run, start, console) as reporter, stop_signals() as received:
            for done in range(start + 1, config.steps + 1):
                state, metrics = step(state, batches(done - 1), teacher)
                if late:  # fetched one step late, so that the device never waits for the host
                    reporter.report(*late)
                late = (done, metrics)
                if done % config.eval_every == 0 or done == config.steps:
                    jax.block_until_ready(state)
                    with reporter.clock_stopped():
                        val_loss = mean_loss(state.model, held_back)
                    reporter.report(done, metrics, val_loss)
                    with reporter.clock_stopped():
                        checkpoints.save(state, val_loss)
                    late = None
                elif received:
                    reporter.report(done, metrics)
                    checkpoints.save(state, math.inf)
                if received:
                    checkpoints.wait()
                    raise TrainingStopped(done, received[0])
            checkpoints.wait()
    return state.model


def check_can_train(config: TrainConfig, data: TokenData) -> None:
    """Raise ValueError where training would fail later on: text too short, backend or package not there."""
    for part in (data.train, data.validation):
        fixed_batches(part, 1, config.model.context_length, 1)
    describe_attention(config.model)
    if config.wandb and find_spec("wandb") is None:
        raise ValueError("--wandb needs the package: pip install 'jaxgpt[wandb]'")


def _first_state(run: Run, checkpoints: Checkpoints, console: Console) -> TrainState:
    if checkpoints.latest is None:
        return initial_state(run.config)
    if checkpoints.latest == 0:
        console.print(f"starting from the weights of {run.config.init}", highlight=False)
    else:
        console.print(f"resuming after step {checkpoints.latest}", highlight=False)
    return checkpoints.restore_state(run.config, checkpoints.latest)


def save_start(run: Run, model: GPT) -> None:
    """Make a model the run's checkpoint of step 0: training starts from it, and nothing else is needed to resume."""
    state = initial_state(run.config)._replace(model=model)
    with Checkpoints(run.checkpoints, run.config.keep_checkpoints) as checkpoints:
        checkpoints.save(state, math.inf)
        checkpoints.wait()


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Within, SIGINT and SIGTERM are noted in the list, for the loop to see; the same one again acts as usual."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield received
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
