"""`jaxgpt runs`."""

import dataclasses
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.table import Table

from jaxgpt.commands.output import print_table, say
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import runs_folder
from jaxgpt.training.metrics_file import read_metrics


@dataclasses.dataclass(frozen=True)
class Arguments:
    """List runs: what they train, how far they are, how good, when, and their size on disk."""

    folder: tyro.conf.Positional[Path] = dataclasses.field(default_factory=runs_folder)
    """Where to look: a folder of runs, at any depth. By default where `jaxgpt train` makes them."""
    json: bool = False
    """Print the list as JSON."""


class Summary(NamedTuple):
    """One run at a glance."""

    run: str
    model: str
    data: str
    step: int
    steps: int
    loss: float | None
    val_loss: float | None
    """The newest."""
    best_val_loss: float | None
    changed: str
    """When its metrics were last written, in local time."""
    bytes: int
    """On disk."""


def main(arguments: list[str]) -> int:
    """Print the runs below a folder, the newest last; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt runs", args=arguments)
    if not chosen.folder.is_dir():
        raise UserError(
            f"{chosen.folder} is not a folder: `jaxgpt train` makes runs in {runs_folder()}/, or name yours"
        )
    found = sorted((summarize(folder) for folder in find_runs(chosen.folder)), key=lambda run: run.changed)
    if not found:
        raise UserError(
            f"there is no run below {chosen.folder}: `jaxgpt train` makes one, by default in {runs_folder()}/"
        )
    if chosen.json:
        say(json.dumps([run._asdict() for run in found]))
    else:
        print_table(table_of(found))
    return 0


def find_runs(folder: Path) -> Iterator[Path]:
    """The run folders below a folder, itself included."""
    from jaxgpt.training.run import is_run

    for config in sorted(folder.rglob("config.json")):
        if is_run(config.parent):
            yield config.parent


def summarize(folder: Path) -> Summary:
    """A run by its files alone: nothing is loaded. A damaged config is named in place of the model."""
    from jaxgpt.training.run import read_run

    lines = read_metrics(folder)
    last = lines[-1] if lines else {}
    losses = [line["val_loss"] for line in lines if isinstance(line.get("val_loss"), float)]
    try:
        config = read_run(folder).config
        model, data, steps = describe(config), f"{config.data.source} ({config.data.tokenizer})", config.steps
    except ValueError as error:
        model, data, steps = f"damaged: {error}"[:60], "", 0
    newest = max((file.stat().st_mtime for file in folder.glob("*.jsonl")), default=folder.stat().st_mtime)
    return Summary(
        run=str(folder),
        model=model,
        data=data,
        step=int(last.get("step", 0)),
        steps=steps,
        loss=last.get("loss"),
        val_loss=losses[-1] if losses else None,
        best_val_loss=min(losses, default=None),
        changed=datetime.datetime.fromtimestamp(newest).strftime("%Y-%m-%d %H:%M"),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def describe(config: Any) -> str:
    """The model in a few words, such as 4 layers, width 64, rotary, 2 of 4 KV heads, window 256."""
    model = config.model
    words = [f"{model.num_layers} layers", f"width {model.d_model}", f"context {model.context_length}"]
    words += [model.position] if model.position != "learned" else []
    words += [f"{model.kv_heads} of {model.num_heads} KV heads"] if model.kv_heads != model.num_heads else []
    words += [f"window {model.window}"] if model.window is not None else []
    return ", ".join(words)


def table_of(runs: list[Summary]) -> Table:
    """The runs for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "model", "data", "step", "loss", "val loss", "best", "changed", "size"):
        table.add_column(name, justify="right" if name in ("step", "loss", "val loss", "best", "size") else "left")
    for run in runs:
        losses = ("" if loss is None else f"{loss:.4f}" for loss in (run.loss, run.val_loss, run.best_val_loss))
        table.add_row(
            run.run,
            run.model,
            run.data,
            f"{run.step:,}/{run.steps:,}",
            *losses,
            run.changed,
            f"{run.bytes / 1e6:,.1f} MB",
        )
    return table
