"""`jaxgpt evaluate`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from rich.table import Table

from jaxgpt.commands.output import print_table, progress_bar, say
from jaxgpt.config import Backend
from jaxgpt.errors import UserError
from jaxgpt.runtime.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from jaxgpt.data import TokenData
    from jaxgpt.evaluation.tasks.run import Row
    from jaxgpt.model.gpt import GPT


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Loss, perplexity and bits per byte on a text, or the standard tasks."""

    source: tyro.conf.Positional[Path]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    data: str | None = None
    """stdlib, shakespeare, or the path of a text file or folder. None: what the run was trained on."""
    split: Literal["validation", "train", "all"] = "validation"
    """Which part of the text; validation is the held-back tenth."""
    step: Literal["latest", "best"] | int = "latest"
    """Which checkpoint of a run."""
    batch_size: int | Literal["auto"] = "auto"
    """Windows computed at once. auto: as many as the device's memory holds."""
    stride: int | None = None
    """Tokens by which a window moves on; fewer give each token more context and take longer. None: whole windows."""
    attention: Backend | None = None
    """Attention backend by name, such as auto where the model's own cannot run here. None: the model's own."""
    tasks: str | None = None
    """Standard tasks in place of a text, with commas between: hellaswag, lambada, lambada-openai, wikitext103,
    wikitext2, ptb, enwik8, text8, blimp, arc-easy, piqa, winogrande, core."""
    limit: int | None = None
    """Questions (or windows) of each task: always the same ones, drawn from all. None: all."""
    task_data: Path | None = None
    """A folder with the tasks' files. None: downloaded once, and kept in the user's cache."""
    json: bool = False
    """Print the result as JSON."""


def main(arguments: list[str]) -> int:
    """Print how well the model predicts the text; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt evaluate", args=arguments)
    if chosen.batch_size != "auto" and chosen.batch_size < 1:
        raise UserError(f"--batch-size {chosen.batch_size} computes nothing; use at least 1, or auto")
    keep_freed_memory()
    return evaluate_text(chosen) if chosen.tasks is None else evaluate_tasks(chosen)


def evaluate_text(chosen: Arguments) -> int:
    """The loss on a text."""
    from jaxgpt.evaluation.evaluate import evaluate, split_tokens, text_windows

    data = text_of(chosen)
    tokens, bytes_per_token = split_tokens(data, chosen.split)
    model = model_of(chosen)
    end = data.tokenizer.end_of_text if masks_documents(chosen) else None
    with progress_bar("windows", len(text_windows(model.config, tokens, chosen.stride, end))) as advance:
        rule: dict[str, Any] = {"stride": chosen.stride, "end_of_text": end, "progress": advance}
        found = evaluate(model, tokens, bytes_per_token, chosen.batch_size, **rule)
    if chosen.json:
        say(json.dumps(found._asdict()))
        return 0
    bits = "not known" if found.bits_per_byte is None else f"{found.bits_per_byte:.4f}"
    error = "" if found.standard_error is None else f" ± {found.standard_error:.4f}"
    say(
        f"loss {found.loss:.4f}{error} nats per token  perplexity {found.perplexity:.2f}  "
        f"bits per byte {bits}  ({found.tokens:,} tokens)"
    )
    return 0


def evaluate_tasks(chosen: Arguments) -> int:
    """The standard tasks that were named."""
    from jaxgpt.evaluation.tasks.run import check_files, find_tasks, run_task
    from jaxgpt.evaluation.tasks.scorer import Scorer
    from jaxgpt.loading import check_vocabulary, load_tokenizer

    tasks = find_tasks(chosen.tasks or "")
    if chosen.limit is not None and chosen.limit < 1:
        raise UserError(f"--limit {chosen.limit} asks nothing; use at least 1, or leave it out for all questions")
    check_files(tasks, chosen.task_data)
    model, tokenizer = model_of(chosen), load_tokenizer(chosen.source)
    check_vocabulary(tokenizer, model.config, chosen.source)
    scorer = Scorer(
        model,
        tokenizer,
        batch_size=chosen.batch_size,
        stride=chosen.stride,
        limit=chosen.limit,
        bar=progress_bar,
    )
    outcomes = {task.name: run_task(task, scorer, chosen.task_data) for task in tasks}
    rows = [row for _, found in outcomes.values() for row in found]
    if chosen.json:
        details = {name: outcome.details for name, (outcome, _) in outcomes.items() if outcome.details}
        say(json.dumps({"source": str(chosen.source), "rows": [row._asdict() for row in rows], "details": details}))
    else:
        print_table(table_of(rows))
        say_truncated(rows)
    return 0


def table_of(rows: list["Row"]) -> Table:
    """Ours beside what was published for OpenAI's weights of this size."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("task", "metric", "ours", "standard error", "published", "by", "examples", "seconds"):
        table.add_column(name, justify="left" if name in ("task", "metric", "by") else "right")
    for row in rows:
        error, published = ("" if number is None else f"{number:.4f}" for number in (row.standard_error, row.published))
        cells = (f"{row.ours:.4f}", error, published, row.published_by or "", f"{row.examples:,}")
        table.add_row(row.task, row.metric, *cells, f"{row.seconds:.1f}")
    return table


def say_truncated(rows: list["Row"]) -> None:
    """Tell which tasks have questions longer than the model's context."""
    for task, count in {row.task: row.truncated for row in rows if row.truncated}.items():
        say(f"{task}: {count:,} contexts are longer than the model's, and lost their beginning")


def text_of(chosen: Arguments) -> "TokenData":
    """The text that was asked for, or else the one that the run was trained on."""
    from jaxgpt.data import prepare
    from jaxgpt.loading import load_tokenizer
    from jaxgpt.training.run import is_run, read_run

    if chosen.data is not None:
        return prepare(chosen.data, load_tokenizer(chosen.source))
    if is_run(chosen.source):
        return read_run(chosen.source).data()
    raise UserError(f"{chosen.source} is not a run of ours, which would know its text: name one by --data")


def masks_documents(chosen: Arguments) -> bool:
    """Whether the model has never read across <|endoftext|>, so that documents are read alone here too."""
    from jaxgpt.training.run import is_run, read_run

    return is_run(chosen.source) and read_run(chosen.source).config.data.mask_documents


def model_of(chosen: Arguments) -> "GPT":
    """The model on all devices: each has a copy, and they share out the windows."""
    from jaxgpt.commands.sources import load_on_all_devices

    changes: dict[str, Any] = {} if chosen.attention is None else {"attention": chosen.attention}
    return load_on_all_devices(chosen.source, chosen.step, **changes)
