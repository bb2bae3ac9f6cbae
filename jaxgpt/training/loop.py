"""The loop of a run: reporting, validation, saving, stopping and rolling back; the mathematics is in step.py."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from jaxgpt.errors import UserError
from jaxgpt.runtime.processes import is_main_process
from jaxgpt.runtime.signals import Stops, stop_signals
from jaxgpt.training.checkpoint import SaveFailed
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.memory import memory_errors
from jaxgpt.training.metrics import BadNumbers, Reporter
from jaxgpt.training.profile import traced
from jaxgpt.training.state import TrainState
from jaxgpt.training.trainer import Trainer

MAX_ROLLBACKS = 10
"""From one checkpoint; where this does not help, the data are not the reason."""

Callback = Callable[[int, dict[str, float], TrainState, Trainer], str | None]
"""callback(step, metrics, state, trainer) -> None, "stop" or "save"."""
ACTIONS = (None, "save", "stop")


class TrainingStopped(Exception):  # noqa: N818  being told to stop is no error
    """A signal asked the run to stop; its state is saved."""

    def __init__(self, step: int, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name} after step {step}")
        self.step, self.signal = step, number


def run_to_end(
    trainer: Trainer,
    state: TrainState,
    console: Console,
    callbacks: Sequence[Callback] = (),
    before: float | None = None,
) -> TrainState:
    """Take a run from a state, of validation loss `before`, to its last step or to where a callback stops it.

    Raises TrainingStopped after SIGINT or SIGTERM, and UserError where numbers are bad and the config does not say to
    go on, or a checkpoint cannot be written. Whatever happens, the newest whole checkpoint stays usable.
    """
    rollbacks, saved = 0, trainer.checkpoints.latest
    with stop_signals() as stops:
        while True:
            offset = int(state.data_offset)
            try:
                state = train_until(trainer, state, console, callbacks, stops, before)
                break
            except BadNumbers as bad:
                with failed_saves(trainer.config, console):
                    trainer.checkpoints.wait()
                rollbacks = rollbacks + 1 if trainer.checkpoints.latest == saved else 1
                saved = trainer.checkpoints.latest
                if trainer.config.on_nonfinite != "rewind" or rollbacks > MAX_ROLLBACKS or saved is None:
                    raise
                before, state = None, roll_back(trainer, bad, saved, offset, console)
        with failed_saves(trainer.config, console):
            trainer.checkpoints.wait()
    return state


def train_until(
    trainer: Trainer,
    state: TrainState,
    console: Console,
    callbacks: Sequence[Callback],
    stops: Stops,
    before: float | None,
) -> TrainState:
    """The loop: step by step to the last one, each reported, and validated and saved where that is due."""
    config, done, late = trainer.config, int(state.step), None
    with memory_errors(config), Reporter(trainer.run, done, console, devices=trainer.mesh.size) as reporter:
        if before is not None:
            reporter.report_start(before)
        steps, wanted = trainer.steps(state), config.profiled_steps
        if wanted and is_main_process():
            steps = traced(steps, done, wanted, trainer.run.folder, console, reporter.clock_stopped)
        for state, metrics in steps:
            done += 1
            with freed_where_bad(state):
                if late:  # fetched one step late, so that the device never waits for the host
                    reporter.report(*late)
                reporter.stepped(done, metrics)
                stop = stops.after(done)
                validate = done % config.eval_every == 0 or done == config.steps
                tasks = config.eval_tasks is not None and (done % config.eval_tasks_every == 0 or done == config.steps)
                call = bool(callbacks) and (validate or done % config.log_every == 0)
                late = None if validate or tasks or call or stop else (done, metrics)
                if late:
                    continue
                jax.block_until_ready(state)
                with reporter.clock_stopped():
                    val_loss = trainer.validate(state) if validate else None
                    task_metrics = trainer.evaluate_tasks(state) if tasks else {}
                line = reporter.report(done, metrics, val_loss, task_metrics)
            with reporter.clock_stopped(), failed_saves(config, console):
                action = ask(callbacks, done, line, state, trainer) if call else None
                if validate or stop or action:
                    trainer.checkpoints.save(state, math.inf if val_loss is None else val_loss)
            if stop:
                trainer.checkpoints.wait()
                raise TrainingStopped(done, stop)
            if action == "stop":
                break
    return state


@contextmanager
def freed_where_bad(state: TrainState) -> Iterator[None]:
    """Within, bad numbers delete the state, so that going back holds one state and not two."""
    try:
        yield
    except BadNumbers:
        jax.tree.map(lambda leaf: leaf.delete(), state)
        raise


def ask(
    callbacks: Sequence[Callback], step: int, line: dict[str, float], state: TrainState, trainer: Trainer
) -> str | None:
    """What the callbacks decide, the strongest of them; the main process calls them, and all processes follow."""
    found = 0
    if is_main_process():
        for callback in callbacks:
            answer = callback(step, line, state, trainer)
            if answer not in ACTIONS:
                raise UserError(f"a callback returned {answer!r}; it may return None, 'save' or 'stop'")
            found = max(found, ACTIONS.index(answer))
    if jax.process_count() > 1:
        found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
    return ACTIONS[found]


def roll_back(trainer: Trainer, bad: BadNumbers, saved: int, offset: int, console: Console) -> TrainState:
    """The newest checkpoint's state, set to read on after the batch that went wrong.

    `offset` is what earlier rollbacks left out: the checkpoint may be older than they are.
    """
    state = trainer.restore(saved)
    unread = bad.step - saved
    console.print(f"{bad.reason}: back to step {saved}, past {unread} batches", highlight=False)
    return state._replace(data_offset=state.data_offset * 0 + jnp.int32(offset + unread))


@contextmanager
def failed_saves(config: TrainConfig, console: Console) -> Iterator[None]:
    """Report a checkpoint that cannot be written; it ends the run unless the config says to go on."""
    try:
        yield
    except SaveFailed as failed:
        if config.on_failed_save == "stop":
            raise
        console.print(f"{failed}; going on without it", soft_wrap=True)
