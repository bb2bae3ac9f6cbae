"""Checkpoints of the training state: asynchronous, atomic, restored to the bit. Orbax does the writing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT, abstract_model
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import TrainState, abstract_state


class Checkpoints:
    """The checkpoints of one run. Use as a context: leaving it waits for saves under way."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=lambda metrics: metrics["val_loss"], reverse=True, n=1),
            ]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, create=True)
        self.folder, self._manager = folder, ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest whole checkpoint."""
        return self._manager.latest_step()

    def save(self, state: TrainState, val_loss: float) -> None:
        """Begin to save. Raises ValueError where this save, or the one before it, cannot be written."""
        args = ocp.args.Composite(
            model=ocp.args.StandardSave(by_path(state.model)), training=ocp.args.StandardSave(by_path(_rest(state)))
        )
        with self._writing():
            self._manager.save(int(state.step), args=args, metrics={"val_loss": val_loss})

    def wait(self) -> None:
        """Until the save under way is whole on disk. Raises ValueError where it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and tensorstore raise many kinds; each means the same to the user
            whole = list(self._manager.all_steps(read=True))
            raise ValueError(
                f"a checkpoint could not be written to {self.folder} ({_reason(error)}); "
                f"whole ones are of steps {whole}: make room, then resume"
            ) from error

    def restore_state(self, config: TrainConfig, step: int) -> TrainState:
        """The whole training state. Raises ValueError where the checkpoint is damaged or of another config."""
        like = abstract_state(config)
        found = self._restore(step, model=by_path(like.model), training=by_path(_rest(like)))
        rest = from_paths(_rest(like), found.training)
        return TrainState(model=from_paths(like.model, found.model), **rest)

    def restore_model(self, config: GPTConfig, step: int) -> GPT:
        """The parameters alone."""
        like = abstract_model(config)
        return from_paths(like, self._restore(step, model=by_path(like)).model)

    def _restore(self, step: int, **items: dict[str, jax.ShapeDtypeStruct]) -> Any:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = {
            name: ocp.args.StandardRestore({path: leaf.update(sharding=device) for path, leaf in leaves.items()})
            for name, leaves in items.items()
        }
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**wanted))
        except Exception as error:  # orbax and tensorstore raise many kinds; each means the same to the user
            raise ValueError(
                f"{self.folder / str(step)} cannot be restored, it is damaged or of another config ({_reason(error)}); "
                f"to go back to an older one, move it away: there are steps {self._manager.all_steps()}"
            ) from error


def _rest(state: TrainState) -> dict[str, Any]:
    """What training needs beside the model."""
    return {"step": state.step, "moments": state.moments}


def by_path(tree: Any) -> dict[str, Any]:
    """Every leaf under the words that lead to it."""
    return {_words(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def from_paths(like: Any, leaves: dict[str, Any]) -> Any:
    """The inverse of `by_path`, in the shape of `like`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: leaves[_words(path)], like)


def _reason(error: Exception) -> str:
    """The first line of an error that may be pages long."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _words(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
