"""The beginning of a run: its first state and its programs, made at once."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console

from jaxgpt.errors import UserError
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.runtime.host_memory import LARGEST_KEPT, return_freed_memory
from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.memory import memory_errors
from jaxgpt.training.state import TrainState
from jaxgpt.training.trainer import Trainer


def start(
    trainer: Trainer, console: Console, weights: Callable[[], TrainState] | None
) -> tuple[TrainState, float | None]:
    """The first state: of the newest checkpoint, of the given weights, or fresh; at step 0 its validation loss.

    Python traces one program while another is compiled and the devices draw the weights or validate.
    """
    began = time.perf_counter()
    with ThreadPoolExecutor() as pool, memory_errors(trainer.config):
        made = pool.submit(_init_or_restore, trainer, console, weights)
        compiled = pool.submit(lambda: trainer.compiled)
        state = made.result()
        before = trainer.validate(state) if int(state.step) == 0 else None
        step, remat = compiled.result()
    console.print(f"compiled in {time.perf_counter() - began:.1f} s", highlight=False)
    if memory_needed(step) > LARGEST_KEPT:
        return_freed_memory()
    if remat == "block" != trainer.config.remat:
        console.print(f"remat: {remat}", highlight=False)
    if before is not None:
        console.print(f"validation loss before training: {before:.3f} nats per token", highlight=False)
        if is_main_process():  # lines of a start that was killed
            (trainer.run.folder / "metrics.jsonl").unlink(missing_ok=True)
    return state, before


def _init_or_restore(trainer: Trainer, console: Console, weights: Callable[[], TrainState] | None) -> TrainState:
    latest = trainer.checkpoints.latest
    if latest is None and weights is not None:
        return weights()
    if latest is None and "model" in trainer.run.from_python:
        raise UserError(f"{trainer.run.folder} has no checkpoint left, and began with weights from Python; begin again")
    if latest is None:
        return trainer.init()
    if latest == 0:
        begun = trainer.config.init or "the model that it was given"
        console.print(f"starting from the weights of {begun}", highlight=False, soft_wrap=True)
    else:
        console.print(f"resuming after step {latest}", highlight=False)
    return trainer.restore(latest)
