"""Where a run's lines are kept: metrics.jsonl, and what `trackers` names.

A writer that fails is reported once and never stops or blocks training.
"""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Protocol

from jaxgpt.runtime.watchdog import say
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics_file import FILE, JsonLines, forget_after, last_seconds
from jaxgpt.training.trackers import Csv, TensorBoard, WandB

Line = dict[str, float]
"""Numbers of one step, by name."""


class Place(Protocol):
    """Somewhere lines go. Raises OSError where it cannot be written."""

    name: str

    def write(self, line: dict[str, float | None]) -> None: ...
    def close(self) -> None: ...


class MetricsLog:
    """All places of a run's lines. Those after step `start`, of an earlier process, are undone. Use as a context."""

    def __init__(self, folder: Path, config: TrainConfig, start: int, tell: Callable[[str], None] = say) -> None:
        self._tell, self._told = tell, set[str]()
        path = folder / FILE
        self._guarded(FILE, lambda: forget_after(path, start))
        self.seconds_before = last_seconds(path)
        """What the last line left by an earlier process says."""
        trackers: dict[str, Callable[[], Place]] = {
            "tensorboard": lambda: TensorBoard(folder, start + 1),
            "csv": lambda: Csv(folder),
            "wandb": lambda: WandB(folder, config, self._tell_once),
        }
        self._places: list[Place] = [JsonLines(path)]
        for name in config.tracker_names:
            self._guarded(name, lambda make=trackers[name]: self._places.append(make()))  # type: ignore[misc]

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
