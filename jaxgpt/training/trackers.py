"""Where a run's lines go beside metrics.jsonl: TensorBoard's event file, metrics.csv, Weights & Biases.

Each raises OSError where it cannot be written; `MetricsLog` then says so once, and training goes on.
"""

import csv
import io
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from jaxgpt.errors import UserError
from jaxgpt.training import event_file
from jaxgpt.training.appended_file import AppendedFile
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics_file import FILE, read_metrics

FINISH_SECONDS = 30


def check_installed(config: TrainConfig) -> None:
    """Raise UserError where a tracker needs a package that is not there."""
    if "wandb" in config.tracker_names and find_spec("wandb") is None:
        raise UserError("trackers='wandb' needs the package wandb: pip install 'jaxgpt[wandb]', or leave it out")


class TensorBoard:
    """An event file, written as each line comes."""

    name = "the TensorBoard file"

    def __init__(self, folder: Path, purge_step: int) -> None:
        now = time.time()
        self._file = AppendedFile(folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}")
        self._first = event_file.first_events(now, purge_step)
        self.close = self._file.close

    def write(self, line: dict[str, float | None]) -> None:
        event = event_file.scalars(time.time(), int(line["step"] or 0), numbers(line))
        first, self._first = self._first, b""
        self._file.append(first + event)


class Csv:
    """metrics.csv: metrics.jsonl as a table. A line with a new column, or after a failure, writes it anew."""

    name = "metrics.csv"

    def __init__(self, folder: Path) -> None:
        self._path, self._folder = folder / "metrics.csv", folder
        self._columns: list[str] = []

    def write(self, line: dict[str, float | None]) -> None:
        columns, self._columns = self._columns, []
        if line.keys() <= set(columns):
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(_rows([line], columns))
        else:
            columns = self._write_all()
        self._columns = columns

    def _write_all(self) -> list[str]:
        if not (self._folder / FILE).is_file():
            raise FileNotFoundError(f"{self._folder / FILE} is no file")
        lines = read_metrics(self._folder)
        columns = list(dict.fromkeys(name for line in lines for name in line))
        draft = self._path.with_suffix(".csv.part")
        draft.write_text(",".join(columns) + "\n" + _rows(lines, columns), encoding="utf-8", newline="")
        draft.replace(self._path)
        return columns

    def close(self) -> None: ...


def _rows(lines: list[dict[str, float | None]], columns: list[str]) -> str:
    out = io.StringIO()
    csv.DictWriter(out, columns, lineterminator="\n").writerows(lines)
    return out.getvalue()


class WandB:
    """Weights & Biases, from a thread: neither the network nor its service holds up a step."""

    name = "wandb"

    def __init__(self, folder: Path, config: TrainConfig, tell: Callable[[str, Exception | str], None]) -> None:
        import wandb

        self._errors = (OSError, wandb.Error)
        project = os.environ.get("WANDB_PROJECT") or "jaxgpt"
        named = {"project": project, "name": folder.name, "id": folder.name}
        try:
            self._run = wandb.init(**named, dir=str(folder), resume="allow", config=config.to_dict())
        except wandb.Error as error:
            raise OSError(str(error)) from error
        self._tell = tell
        self._lines: queue.Queue[dict[str, float | None] | None] = queue.Queue(maxsize=10_000)
        self._thread = threading.Thread(target=self._send, daemon=True, name="jaxgpt wandb")
        self._thread.start()

    def write(self, line: dict[str, float | None]) -> None:
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._tell(self.name, "it takes no lines")

    def close(self) -> None:
        """Wait a while for what is not sent yet."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(FINISH_SECONDS)
        if self._thread.is_alive():
            self._tell(self.name, f"not all was sent within {FINISH_SECONDS} seconds")

    def _send(self) -> None:
        while (line := self._lines.get()) is not None:
            self._try(partial(self._run.log, numbers(line), step=int(line["step"] or 0)))
        self._try(self._run.finish)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except self._errors as error:
            self._tell(self.name, error)


def numbers(line: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name != "step" and value is not None}
