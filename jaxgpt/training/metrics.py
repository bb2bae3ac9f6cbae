"""Where a run's numbers go: JSON lines, TensorBoard, Weights & Biases, and a person's terminal."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.run import Run
from jaxgpt.training.step import Metrics

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

Line = dict[str, float]


class Reporter:
    """Turns the numbers of each step into lines, and sends the lines to their places. Use as a context."""

    def __init__(self, run: Run, start: int, console: Console) -> None:
        config = run.config
        self._every, self._on_nonfinite = config.log_every, config.on_nonfinite
        self._tokens_per_step = config.batch_size * config.model.context_length
        self._clock, self._clock_step = time.perf_counter(), start
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

    def report(self, step: int, metrics: Metrics, val_loss: float | None = None) -> None:
        """Fetch the numbers of a step, and write them where a line is due; of several processes, only the first does.

        Raises BadNumbers where they are, and the config does not say to skip such steps.
        """
        line: Line = {"step": step, **{name: float(value) for name, value in metrics._asdict().items()}}
        if val_loss is not None:
            line["val_loss"] = val_loss
        if line.pop("bad") and self._on_nonfinite != "skip":
            raise BadNumbers(step, _what_is_bad(line))
        if val_loss is not None and not math.isfinite(val_loss):
            raise BadNumbers(step, f"val_loss is {val_loss} after step {step}")
        if val_loss is not None or step % self._every == 0:
            line["tokens_per_second"] = self._speed(step)
            if is_main_process():
                self._log.write(line)
                self._display.show(line)

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Time spent within does not count as training."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def _speed(self, step: int) -> float:
        now = time.perf_counter()
        speed = (step - self._clock_step) * self._tokens_per_step / (now - self._clock)
        self._clock, self._clock_step = now, step
        return speed


class BadNumbers(ValueError):  # noqa: N818  named for what it is about
    """The numbers of a step are not finite, or jumped by more than the config allows."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(
            f"{reason}: training stopped, and no checkpoint was made of this; resume from the last good one with "
            "a lower --optimizer.learning-rate, or with --on-nonfinite skip or rewind"
        )
        self.step, self.reason = step, reason


def _what_is_bad(line: Line) -> str:
    for name in ("loss", "grad_norm"):
        if not math.isfinite(line[name]):
            return f"{name} is {line[name]} at step {line['step']}"
    return f"loss jumped to {line['loss']:.3f} at step {line['step']}"


class MetricsLog:
    """metrics.jsonl, TensorBoard events and, where the config asks for it, wandb. Lines after `start` are undone."""

    def __init__(self, folder: Path, config: TrainConfig, start: int) -> None:
        path = folder / "metrics.jsonl"
        _forget_after(path, start)
        self._wandb = _start_wandb(folder, config) if config.wandb else None
        self._lines = path.open("a", encoding="utf-8")
        self._folder, self._start = folder, start

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        if "_events" in vars(self):
            self._events.close()
        if self._wandb:
            self._wandb.finish()

    @cached_property
    def _events(self) -> "SummaryWriter":
        """Made for the first line: its package imports torch where that is installed, for which no start waits."""
        from tensorboardX import SummaryWriter

        return SummaryWriter(str(self._folder), purge_step=self._start + 1)

    def write(self, line: Line) -> None:
        """One line; `step` is the number of updates done."""
        whole = {name: value if math.isfinite(value) else None for name, value in line.items()}  # JSON has no NaN
        self._lines.write(json.dumps(whole) + "\n")
        self._lines.flush()
        numbers = {name: value for name, value in whole.items() if name != "step" and value is not None}
        for name, value in numbers.items():
            self._events.add_scalar(name, value, line["step"])
        if self._wandb:
            self._wandb.log(numbers, step=line["step"])


class Display:
    """A live line on a terminal; where output is piped, plain lines."""

    def __init__(self, console: Console, start: int, steps: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("train", total=steps, completed=start, status="compiling")

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, line: Line) -> None:
        """The newest metrics. A validation stays on the screen."""
        status = f"loss {line['loss']:.3f}  {line['tokens_per_second']:,.0f} tokens/s"
        self._progress.update(self._task, completed=line["step"], status=status)
        if "val_loss" in line:
            status += f"  validation loss {line['val_loss']:.3f}"
        if "val_loss" in line or not self._console.is_terminal:
            self._console.print(f"step {line['step']:>6}  {status}", highlight=False, soft_wrap=True)


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that the restored checkpoint has not seen, and a last line cut off by a kill."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    draft = path.with_suffix(".part")
    draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    draft.replace(path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _start_wandb(folder: Path, config: TrainConfig) -> Any:
    import wandb

    return wandb.init(project="jaxgpt", name=folder.name, id=folder.name, resume="allow", config=config.to_dict())
