"""Stopping where the validation loss no longer falls."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from jaxgpt.training.metrics_file import read_metrics

if TYPE_CHECKING:
    from jaxgpt.training.state import TrainState
    from jaxgpt.training.trainer import Trainer


class EarlyStop:
    """A callback that stops after `patience` validations in a row without a new lowest loss (Prechelt 1998).

    It reads the run's own lines, so that a resumed run stops where it would have stopped.
    """

    def __init__(self, patience: int, console: Console) -> None:
        self._patience, self._console = patience, console

    def __call__(self, step: int, metrics: dict[str, Any], state: "TrainState", trainer: "Trainer") -> str | None:
        """Stop, or not."""
        del state  # callbacks are given it
        if "val_loss" not in metrics:
            return None
        lines = read_metrics(trainer.run.folder)
        losses = {line["step"]: line["val_loss"] for line in lines if line.get("val_loss") is not None}
        best = min(losses, key=losses.__getitem__, default=step)  # none: the file cannot be written
        if sum(after > best for after in losses) < self._patience:
            return None
        self._console.print(
            f"the validation loss has not fallen below {losses[best]:.3f} of step {best} in "
            f"{self._patience} validations: stopped after step {step}"
        )
        return "stop"
