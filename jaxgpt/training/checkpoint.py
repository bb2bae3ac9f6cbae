"""Checkpoints of the training state: asynchronous, atomic, verified, restored on any mesh. Orbax does the writing.

Orbax is imported where it first writes or reads, since a run that begins does neither.
"""

import math
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
from jax import Array
from jax.sharding import Mesh

from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.lora import is_adapter
from jaxgpt.model.parameters import path_name
from jaxgpt.parallel.mesh import one_device
from jaxgpt.parallel.sharding import abstract_shards
from jaxgpt.training.checksum import checksums
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.state import Optimizer, TrainState, abstract_state, abstract_trained_model, merged

Items = dict[str, dict[str, Any]]
"""Arrays, or their shapes and places, by item and by path."""
Which = int | Literal["latest", "best"]
"""A checkpoint: the newest, the one of the lowest validation loss, or that of a step."""

NAMES_OF_0_1 = {"opt_state": "moments", "data_offset": "passed_over", "loss_ema": "usual_loss"}
"""How version 0.1 called a part of the state on disk."""

STEP = re.compile("0|[1-9][0-9]*")
"""The name of a checkpoint's folder, as orbax writes it."""

READ_ATTEMPTS, READ_PAUSE = 3, 0.1
"""How often, and after how many seconds, a reader tries the same step, which a run that is training may be deleting."""


REFUSED_BY_THE_DISK = (
    *("[OS error", "Error writing", "Failed writing", "Error creating", "Error opening"),
    *("Checkpoint directory does not exist", "No ArrayMetadata found"),
)
"""How ValueErrors tell that the system refused to write a file: tensorstore's, and orbax's where the folder of a save
was deleted under it.
"""


class SaveFailed(UserError):  # noqa: N818  named for what happened
    """A checkpoint could not be written, by a fault of the disk."""


class Checkpoints:
    """The checkpoints of one run. Use as a context: leaving it waits for saves under way.

    With `lora`, the checkpoint of step 0 stays, and later ones hold the adapters without the weights they belong to.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 1,
        keep_every: int | None = None,
        *,
        run_id: str | None = None,
        lora: bool = False,
    ) -> None:
        self.folder, self._keep, self._keep_every, self._run_id, self._lora = folder, keep, keep_every, run_id, lora

    @cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        # Orbax writes metrics to disk only where best_fn is set; which checkpoints stay is decided by the policy.
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Kept(self._keep, self._keep_every, self._lora), best_fn=_val_loss, best_mode="min"
        )
        return ocp.CheckpointManager(self.folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_manager" in vars(self):
            try:
                with self._writing():
                    self._manager.close()
            except SaveFailed:  # of a save in the background; each is reported once
                if kind is None or not issubclass(kind, SaveFailed):
                    raise

    @property
    def steps(self) -> list[int]:
        """The steps of all whole checkpoints, in order, as they are on disk now."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if STEP.fullmatch(path.name) and path.is_dir())

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the lowest validation loss. None: no checkpoint was validated."""
        losses = {step: self._loss_of(step) for step in self.steps}
        step = min(losses, key=losses.__getitem__, default=None)
        return step if step is not None and math.isfinite(losses[step]) else None

    def _loss_of(self, step: int) -> float:
        try:
            return _val_loss(self._manager.metrics(step))
        except (ValueError, LookupError, TypeError, AttributeError, OSError):  # its file is missing or damaged
            return math.inf

    def find(self, which: Which) -> int:
        """The step of a checkpoint. Raises UserError where there is none."""
        found = {"latest": self.latest, "best": self.best}.get(which, which) if isinstance(which, str) else which
        if found is None:
            raise UserError(f"{self.folder} has no checkpoint that was validated; use step='latest'")
        if found not in self.steps:
            raise UserError(f"{self.folder} has no checkpoint of step {found!r}; there are {self._there_are()}")
        return int(found)

    def save(self, state: TrainState, val_loss: float = math.inf) -> None:
        """Begin to save. Raises SaveFailed where the disk cannot take this save, or the one before it."""
        import orbax.checkpoint as ocp

        items = _items(state)
        if self._lora and 0 in self.steps:
            items["model"] = _adapters(items["model"])
        about = {"run": self._run_id, **{name: checksums(leaves) for name, leaves in items.items()}}
        args = ocp.args.Composite(
            checksums=ocp.args.JsonSave(about),
            **{name: ocp.args.StandardSave(leaves) for name, leaves in items.items()},
        )
        with self._writing():
            self._manager.save(int(state.step), args=args, metrics={"val_loss": val_loss})

    def wait(self) -> None:
        """Until the save under way is whole on disk. Raises SaveFailed where it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def sweep(self) -> None:
        """Delete what killed saves left. Only for the process that holds the run's lock."""
        for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not _is_of_the_disk(error):
                raise
            raise SaveFailed(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); "
                f"whole ones are of steps {self.steps}: make room, then resume"
            ) from error

    def restore_state(
        self, config: TrainConfig, step: int, mesh: Mesh, optimizer: Optimizer | None = None
    ) -> TrainState:
        """The whole training state, on any mesh.

        Raises UserError where the checkpoint is damaged, of another config or optimizer, or of another run.
        """
        like = abstract_state(config, mesh, optimizer)
        found = self._restore_with_base(config, step, _items(like))
        rest = from_paths(_rest(like), found["training"])
        return TrainState(model=from_paths(like.model, found["model"]), **rest)

    def restore_model(self, config: TrainConfig, step: int, mesh: Mesh | None = None, *, merge: bool = True) -> GPT:
        """The parameters alone, on one device or a mesh; adapters are merged, unless told otherwise.

        Raises UserError as `restore_state` does.
        """
        mesh = mesh or one_device()
        like = abstract_shards(abstract_trained_model(config), mesh)
        model = from_paths(like, self._restore_with_base(config, step, {"model": by_path(like)})["model"])
        return merged(model, mesh) if merge else model

    def load_model(self, config: TrainConfig, which: Which = "latest", mesh: Mesh | None = None) -> GPT:
        """The parameters of a checkpoint, while a run may save newer ones and delete this one."""
        failed: list[int] = []
        while True:
            step = self.find(which)
            try:
                return self.restore_model(config, step, mesh)
            except UserError:
                failed.append(step)
                if failed.count(step) == READ_ATTEMPTS:  # it stays as it is, so this is no fault of the moment
                    raise
                time.sleep(READ_PAUSE)

    def _restore_with_base(self, config: TrainConfig, step: int, items: Items) -> dict[str, dict[str, Array]]:
        """What a checkpoint holds, and for adapters the weights they belong to, from step 0."""
        if config.lora is None or step == 0 or 0 not in self.steps:
            return self._restore(step, items)
        found = self._restore(step, items | {"model": _adapters(items["model"])})
        return found | {"model": self._restore(0, {"model": items["model"]})["model"] | found["model"]}

    def _restore(self, step: int, items: Items) -> dict[str, dict[str, Array]]:
        import orbax.checkpoint as ocp

        about = self._read(step, ocp.args.Composite(checksums=ocp.args.JsonRestore()))["checksums"]
        names = self._names_on_disk(step, items, about)
        wanted = {
            name: ocp.args.StandardRestore({names[name][path]: leaf for path, leaf in leaves.items()})
            for name, leaves in items.items()
        }
        found = self._read(step, ocp.args.Composite(**wanted))
        restored: dict[str, dict[str, Array]] = {}
        for name in items:
            sums = checksums(found[name])
            if changed := [path for path, value in sums.items() if about[name][path] != value]:
                raise self._damaged(step, f"not what was saved: {', '.join(changed)}")
            restored[name] = {path: found[name][there] for path, there in names[name].items()}
        return restored

    def _read(self, step: int, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=args)
        except (MemoryError, jax.errors.JaxRuntimeError):  # not the files' fault; another process may be lost
            raise
        except Exception as error:  # what orbax raises where files are missing, cut off or changed, Exception included
            raise self._damaged(step, _reason(error)) from error

    def _names_on_disk(self, step: int, items: Items, about: Any) -> dict[str, dict[str, str]]:
        """How each path of each item is called on disk. Raises UserError where they are not those of the state."""
        if not isinstance(about, dict) or not all(isinstance(about.get(name), dict) for name in items):
            raise self._damaged(step, "its list of arrays is not whole")
        if self._run_id is not None and about.get("run") not in (None, self._run_id):
            raise UserError(
                f"{self.folder / str(step)} is a checkpoint of another run; move it away, or to the run it came from"
            )
        names = {}
        for name, leaves in items.items():
            there = about[name]
            old = {path: _name_of_0_1(path) for path in leaves}
            names[name] = old if name == "training" and "usual_loss" in there else {path: path for path in leaves}
            if missing := set(names[name].values()) ^ set(there):
                optimizers = all(path.split(".")[0] in ("opt_state", "moments") for path in missing)
                raise self._damaged(
                    step,
                    "it was saved with another optimizer: name the one that the run began with (--optimizer.name)"
                    if optimizers
                    else f"on one side only: {', '.join(sorted(missing)[:3])}",
                )
        return names

    def _damaged(self, step: int, reason: str) -> UserError:
        return UserError(
            f"{self.folder / str(step)} cannot be restored, it is damaged or of another config ({reason}); "
            f"to go back to an older one, move it away: there are {self._there_are()}"
        )

    def _there_are(self) -> str:
        return f"steps {self.steps}"


class _Kept:
    """Which checkpoints stay: the newest so many, the best, those of steps that are multiples of `every`, the first."""

    def __init__(self, newest: int, every: int | None, first: bool) -> None:
        self._newest, self._every, self._first = newest, every, first

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        """For each checkpoint, oldest first, whether it stays; orbax calls this after a save."""
        del context
        losses = [_val_loss(info.metrics) for info in checkpoints]
        best = min(losses, default=math.inf)
        return [
            number >= len(checkpoints) - self._newest
            or (losses[number] == best and math.isfinite(best))
            or (self._every is not None and info.step % self._every == 0)
            or (self._first and info.step == 0)
            for number, info in enumerate(checkpoints)
        ]


def _val_loss(metrics: Any) -> float:
    """Infinite where there was no validation, and in the checkpoints of version 0.1, which do not have it."""
    return float((metrics or {}).get("val_loss", math.inf))


def _is_of_the_disk(error: BaseException | None) -> bool:
    """Whether the system refused to write; tensorstore puts that in the words of its ValueErrors."""
    while error is not None:
        if isinstance(error, OSError) or any(words in str(error) for words in REFUSED_BY_THE_DISK):
            return True
        error = error.__cause__ or error.__context__
    return False


def _items(state: TrainState) -> Items:
    """A state as two items: the model, which can be restored alone, and what training needs beside."""
    return {"model": by_path(state.model), "training": by_path(_rest(state))}


def _adapters(parameters: dict[str, Any]) -> dict[str, Any]:
    return {path: leaf for path, leaf in parameters.items() if is_adapter(path)}


def _rest(state: TrainState) -> dict[str, Any]:
    return {name: part for name, part in state._asdict().items() if name != "model"}


def _name_of_0_1(path: str) -> str:
    first, dot, rest = path.partition(".")
    return NAMES_OF_0_1.get(first, first) + dot + rest


def by_path(tree: Any) -> dict[str, Any]:
    """Every leaf under the words that lead to it."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def from_paths(like: Any, leaves: dict[str, Any]) -> Any:
    """The inverse of `by_path`, in the shape of `like`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[path_name(path)], like)


def _reason(error: Exception) -> str:
    """The first line of an error that may be pages long."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
