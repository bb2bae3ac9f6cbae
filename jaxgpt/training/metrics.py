"""The numbers of a run: checked, timed, and sent to where they are kept and shown."""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any

import jax
from rich.console import Console

from jaxgpt.errors import UserError
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import peak_flops
from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.display import Display
from jaxgpt.training.metrics_log import Line, MetricsLog
from jaxgpt.training.run import Run
from jaxgpt.training.step import Metrics


class BadNumbers(UserError):  # noqa: N818  named for what it is about
    """The numbers of a step are not finite, or jumped by more than the config allows."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(
            f"{reason}: training stopped, and no checkpoint was made of this; resume from the last good one with "
            "a lower --optimizer.learning-rate, or with --on-nonfinite skip or rewind"
        )
        self.step, self.reason = step, reason


class Reporter:
    """Turns the numbers of each step into lines, and sends the lines to their places. Use as a context."""

    def __init__(self, run: Run, start: int, console: Console, *, devices: int | None = None) -> None:
        config = run.config
        self._every, self._on_nonfinite, self._steps = config.log_every, config.on_nonfinite, config.steps
        self._tokens_per_step = config.batch_size * config.model.context_length
        self._utilisation = utilisation_per_token(config, devices or math.prod(config.mesh.sizes(jax.device_count())))
        self._start, self._began, self._stopped = start, time.perf_counter(), 0.0
        self._clock, self._clock_step, self._finished = self._began, start, dict[int, float]()
        self._places = ExitStack()
        if is_main_process():
            self._log = self._places.enter_context(MetricsLog(run.folder, config, start))
            self._display = self._places.enter_context(Display(console, start, config.steps))

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._places.close()

    def report_start(self, val_loss: float) -> None:
        """The first line: the validation loss before training."""
        if is_main_process():
            self._log.write({"step": 0, "val_loss": val_loss, "tokens": 0, "seconds": 0.0})

    def stepped(self, step: int, metrics: Metrics) -> None:
        """Remember the time where a step is done as soon as it is begun, as small steps on a CPU are.

        Its numbers are reported only after the next step has begun: timed then, they would come a step too late.
        """
        loss: Any = metrics.loss
        if loss.is_ready():
            self._finished[step] = self._training_time()

    def report(self, step: int, metrics: Metrics, val_loss: float | None = None, evaluated: Line | None = None) -> Line:
        """Fetch the numbers of a step, and write them where a line is due; of several processes, only the first does.

        What was evaluated after the step goes into its line.

        Raises BadNumbers where they are, and the config does not say to skip such steps.
        """
        numbers = metrics._asdict()
        numbers |= numbers.pop("aux", {})
        line: Line = {"step": step, **{name: float(value) for name, value in numbers.items() if value is not None}}
        now = self._finished.pop(step, None) or self._training_time()
        if val_loss is not None:
            line["val_loss"] = val_loss
        if line.pop("nonfinite_or_spike") and self._on_nonfinite != "skip":
            raise BadNumbers(step, _what_is_bad(line))
        if val_loss is not None and not math.isfinite(val_loss):
            raise BadNumbers(step, f"val_loss is {val_loss} after step {step}")
        line |= evaluated or {}
        if val_loss is not None or evaluated or step % self._every == 0:
            line |= self._timed(step, now)
            if is_main_process():
                self._log.write(line)
                elapsed = time.perf_counter() - self._began
                self._display.show(line, elapsed / (step - self._start) * (self._steps - step))
        elif is_main_process():
            self._display.advance(step)
        return line

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Time spent within does not count as training."""
        began = time.perf_counter()
        yield
        self._stopped += time.perf_counter() - began

    def _training_time(self) -> float:
        return time.perf_counter() - self._stopped

    def _timed(self, step: int, now: float) -> Line:
        """What time decides: speed since the last line, utilisation, tokens and seconds since the run began."""
        speed = (step - self._clock_step) * self._tokens_per_step / max(now - self._clock, 1e-9)
        self._clock, self._clock_step = now, step
        before = self._log.seconds_before if is_main_process() else 0.0
        return {
            "tokens_per_second": speed,
            "tokens": step * self._tokens_per_step,
            "seconds": round(before + time.perf_counter() - self._began, 3),
            **{name: speed * each for name, each in self._utilisation.items()},
        }


def utilisation_per_token(config: TrainConfig, devices: int) -> dict[str, float]:
    """Model FLOPs utilisation of one token per second on so many devices; nothing where their peak is not known.

    mfu counts attention to all keys as PaLM does (Chowdhery et al. 2022, appendix B), mfu_causal to those seen.
    """
    peak = peak_flops(jax.devices()[0].device_kind, config.model.dtype)
    if peak is None:
        return {}
    formulas = {"mfu": False, "mfu_causal": True}
    flops = partial(flops_per_token, config.model, frozen=config.lora is not None)
    return {name: flops(causal=seen) / (peak * devices) for name, seen in formulas.items()}


def _what_is_bad(line: Line) -> str:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(line.get(name, 0.0)):
            return f"{name} is {line[name]} at step {line['step']}"
    return f"loss jumped to {line['loss']:.3f} at step {line['step']}"
