"""Where a run's lines are kept: metrics.jsonl, TensorBoard's event file, Weights & Biases.

A writer that fails is reported once and never stops or blocks training.
"""

import json
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from jaxgpt.runtime.watchdog import say
from jaxgpt.training import event_file
from jaxgpt.training.config import TrainConfig

Line = dict[str, float]
"""Numbers of one step, by name."""
MAX_PENDING_BYTES = 2**24
FINISH_SECONDS = 30
OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""The last: a pipe that nobody reads is an OSError, and not waited for."""


class Place(Protocol):
    """Somewhere lines go. Raises OSError where it cannot be written."""

    name: str

    def write(self, line: dict[str, float | None]) -> None: ...
    def close(self) -> None: ...


class MetricsLog:
    """All places of a run's lines. Those after step `start`, of an earlier process, are undone. Use as a context."""

    def __init__(self, folder: Path, config: TrainConfig, start: int, tell: Callable[[str], None] = say) -> None:
        self._tell, self._told = tell, set[str]()
        path = folder / "metrics.jsonl"
        self._guarded("metrics.jsonl", lambda: forget_after(path, start))
        self.seconds_before = _last_seconds(path)
        """What the last line left by an earlier process says."""
        self._places: list[Place] = [JsonLines(path), TensorBoard(folder, start + 1)]
        if config.wandb:
            self._guarded("wandb", lambda: self._places.append(WandB(folder, config, self._tell_once)))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place in self._places:
            self._guarded(place.name, place.close)

    def write(self, line: Line) -> None:
        """One line; `step` is the number of updates done."""
        whole = {name: value if math.isfinite(value) else None for name, value in line.items()}  # JSON has no NaN
        for place in self._places:
            self._guarded(place.name, partial(place.write, whole))

    def _guarded(self, name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self._tell_once(name, error)

    def _tell_once(self, name: str, error: Exception | str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._tell(f"jaxgpt: {name} cannot be written ({error}); training goes on")


class AppendedFile:
    """A file of whole records: one that cannot be written now is written with the next."""

    def __init__(self, path: Path) -> None:
        self._path, self._pending, self._file = path, b"", -1

    def append(self, record: bytes) -> None:
        if len(self._pending) < MAX_PENDING_BYTES:
            self._pending += record
        self.flush()

    def flush(self) -> None:
        if self._file < 0:
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | OPEN_FLAGS, 0o666)
        size, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(self._pending):
                written += os.write(self._file, self._pending[written:])
        except OSError:
            os.ftruncate(self._file, size)  # a part of a record would spoil what follows
            raise
        self._pending = b""

    def close(self) -> None:
        try:
            if self._pending:
                self.flush()
        finally:
            if self._file >= 0:
                os.close(self._file)


class JsonLines:
    """metrics.jsonl: an object for each line."""

    name = "metrics.jsonl"

    def __init__(self, path: Path) -> None:
        self._file = AppendedFile(path)
        self.close = self._file.close

    def write(self, line: dict[str, float | None]) -> None:
        self._file.append(json.dumps(line).encode() + b"\n")


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


class WandB:
    """Weights & Biases, from a thread: neither the network nor its service holds up a step."""

    name = "wandb"

    def __init__(self, folder: Path, config: TrainConfig, tell: Callable[[str, Exception | str], None]) -> None:
        import wandb

        self._errors = (OSError, wandb.Error)
        try:
            self._run = wandb.init(
                project="jaxgpt", name=folder.name, id=folder.name, resume="allow", config=config.to_dict()
            )
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


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that the restored checkpoint has not seen, and a last line cut off by a kill."""
    if not path.is_file():
        return
    content = path.read_bytes()
    kept = b"".join(line + b"\n" for line in content.splitlines() if _step_of(line) <= step)
    if content.startswith(kept):
        if len(kept) < len(content):
            os.truncate(path, len(kept))  # which a full disk allows too
        return
    draft = path.with_suffix(".part")
    draft.write_bytes(kept)
    draft.replace(path)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _last_seconds(path: Path) -> float:
    try:
        return float(json.loads(path.read_bytes().splitlines()[-1])["seconds"]) if path.is_file() else 0.0
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0.0
