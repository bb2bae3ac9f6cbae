"""Checkpoints of the training state: asynchronous, atomic, verified, restored on any mesh. Orbax does the writing.

Orbax is imported where it first writes or reads, since a run that begins does neither.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, path_name
from jaxgpt.parallel.mesh import one_device
from jaxgpt.parallel.sharding import parameter_specs, shardings
from jaxgpt.training.checksum import checksums
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import TrainState, abstract_state

Items = dict[str, dict[str, Any]]
"""Arrays, or their shapes and places, by item and by path."""


class SaveFailed(ValueError):  # noqa: N818  named for what happened
    """A checkpoint could not be written."""


class Checkpoints:
    """The checkpoints of one run. Use as a context: leaving it waits for saves under way."""

    def __init__(self, folder: Path, keep: int = 1, keep_every: int | None = None) -> None:
        self.folder, self._keep, self._keep_every = folder, keep, keep_every

    @cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        policies = [
            preservation_policy.LatestN(self._keep),
            preservation_policy.BestN(get_metric_fn=lambda metrics: metrics["val_loss"], reverse=True, n=1),
        ]
        if self._keep_every is not None:
            policies.append(preservation_policy.EveryNSteps(self._keep_every))
        policy = preservation_policy.AnyPreservationPolicy(policies)
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True)
        return ocp.CheckpointManager(self.folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_manager" in vars(self):
            self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step() if self.folder.exists() else None

    def save(self, state: TrainState, val_loss: float) -> None:
        """Begin to save. Raises SaveFailed where this save, or the one before it, cannot be written."""
        import orbax.checkpoint as ocp

        items = _items(state)
        args = ocp.args.Composite(
            checksums=ocp.args.JsonSave({name: checksums(leaves) for name, leaves in items.items()}),
            **{name: ocp.args.StandardSave(leaves) for name, leaves in items.items()},
        )
        with self._writing():
            self._manager.save(int(state.step), args=args, metrics={"val_loss": val_loss})

    def wait(self) -> None:
        """Until the save under way is whole on disk. Raises SaveFailed where it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError:  # not the disk's fault: out of memory, or another process is lost
            raise
        except Exception as error:  # orbax and tensorstore raise many kinds; each means the same to the user
            whole = list(self._manager.all_steps(read=True))
            raise SaveFailed(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); "
                f"whole ones are of steps {whole}: make room, then resume"
            ) from error

    def restore_state(self, config: TrainConfig, step: int, mesh: Mesh) -> TrainState:
        """The whole training state, on any mesh. Raises ValueError where it is damaged or of another config."""
        like = abstract_state(config, mesh)
        found = self._restore(step, _items(like))
        rest = from_paths(_rest(like), found["training"])
        return TrainState(model=from_paths(like.model, found["model"]), **rest)

    def restore_model(self, config: GPTConfig, step: int) -> GPT:
        """The parameters alone, on one device. Raises ValueError as `restore_state` does."""
        like, mesh = abstract_model(config), one_device()
        places = shardings(parameter_specs(like, mesh), mesh)
        like = jax.tree.map(lambda leaf, place: leaf.update(sharding=place), like, places)
        return from_paths(like, self._restore(step, {"model": by_path(like)})["model"])

    def _restore(self, step: int, items: Items) -> dict[str, dict[str, Array]]:
        import orbax.checkpoint as ocp

        wanted = {name: ocp.args.StandardRestore(leaves) for name, leaves in items.items()}
        try:
            args = ocp.args.Composite(checksums=ocp.args.JsonRestore(), **wanted)
            found = self._manager.restore(step, args=args)
        except Exception as error:  # orbax and tensorstore raise many kinds; each means the same to the user
            raise self._damaged(step, _reason(error)) from error
        for name in items:
            saved = found["checksums"][name]
            if changed := [path for path, value in checksums(found[name]).items() if saved.get(path) != value]:
                raise self._damaged(step, f"not what was saved: {', '.join(changed)}")
        return found

    def _damaged(self, step: int, reason: str) -> ValueError:
        return ValueError(
            f"{self.folder / str(step)} cannot be restored, it is damaged or of another config ({reason}); "
            f"to go back to an older one, move it away: there are steps {self._manager.all_steps()}"
        )


def _items(state: TrainState) -> Items:
    """A state as two items: the model, which can be restored alone, and what training needs beside."""
    return {"model": by_path(state.model), "training": by_path(_rest(state))}


def _rest(state: TrainState) -> dict[str, Any]:
    return {name: part for name, part in state._asdict().items() if name != "model"}


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
