"""`jaxgpt compare`."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro
from rich.table import Table

from jaxgpt.commands.output import print_table, progress_bar, say
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jaxgpt.evaluation.compare import DocumentScores


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Runs or other models beside each other: curves, losses on the same text, and what differs in their configs."""

    sources: tyro.conf.Positional[tuple[Path, ...]]
    """Two or more of: a run folder, a Hugging Face folder or hub id, a weights file."""
    data: str | None = None
    """stdlib, shakespeare, or the path of a text file or folder. None: what the first run was trained on."""
    split: Literal["validation", "train", "all"] = "validation"
    """Which part of the text; validation is the held-back tenth."""
    limit: int | None = 200
    """Documents (pieces of 2,000 characters) that are scored, spread over the text. None: all."""
    step: Literal["latest", "best"] = "latest"
    """Which checkpoint of a run."""
    batch_size: int | Literal["auto"] = "auto"
    """Windows computed at once. auto: as many as the device's memory holds."""
    output: Path | None = None
    """A folder for the page index.html and the curves as PNG. None: only this table."""
    json: bool = False
    """Print the result as JSON."""


class Compared(NamedTuple):
    """One model beside the first."""

    source: str
    parameters: int
    loss: float
    """Nats per token of its own tokenizer."""
    bits_per_byte: float
    standard_error: float | None
    difference: float | None
    """Bits per byte more than the first model, on the same documents. None: it is the first."""
    difference_error: float | None
    documents: int


def main(arguments: list[str]) -> int:
    """Print the comparison, and write the page where a folder is named; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt compare", args=arguments)
    if len(chosen.sources) < 2:
        raise UserError(f"{len(chosen.sources)} sources cannot be compared: name at least two")
    if chosen.limit is not None and chosen.limit < 2:
        raise UserError(f"--limit {chosen.limit} is too few documents to compare: use at least 2")
    rows, configs = compare(chosen)
    changes = config_changes(configs)
    if chosen.output is not None:
        from jaxgpt.commands.comparison_page import write_page

        write_page(chosen.output, [str(source) for source in chosen.sources], table_cells(rows), changes)
    if chosen.json:
        result = {"models": [row._asdict() for row in rows], "config": changes}
        say(json.dumps(result))
        return 0
    print_table(as_table(*table_cells(rows)))
    if changes:
        say("")
        print_table(as_table(["config", *map(str, chosen.sources)], [[name, *row] for name, row in changes.items()]))
    if chosen.output is not None:
        say(f"\n{chosen.output / 'index.html'}")
    return 0


def compare(chosen: Arguments) -> tuple[list[Compared], list[dict[str, Any]]]:
    """Score each model on the same documents; what each one's config is, too."""
    from jaxgpt.commands.sources import load_on_all_devices
    from jaxgpt.evaluation.compare import documents_of, score_documents
    from jaxgpt.evaluation.evaluate import split_tokens
    from jaxgpt.loading import load_tokenizer
    from jaxgpt.model.parameters import num_parameters
    from jaxgpt.training.run import read_run

    tokenizers = [load_tokenizer(source) for source in chosen.sources]
    data = text_of(chosen, tokenizers[0])
    documents = documents_of(split_tokens(data, chosen.split)[0], data.tokenizer, chosen.limit)
    rows: list[Compared] = []
    configs = []
    first: DocumentScores | None = None
    for source, tokenizer in zip(chosen.sources, tokenizers, strict=True):
        step = chosen.step if _is_run(source) else "latest"
        model = load_on_all_devices(source, step)
        try:
            scores = score_documents(model, tokenizer, documents, chosen.batch_size, progress_bar)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        rows.append(_compared(str(source), num_parameters(model), scores, first))
        configs.append(read_run(source).config.to_dict() if _is_run(source) else {"model": model.config.to_dict()})
        first = first or scores
    return rows, configs


def text_of(chosen: Arguments, tokenizer: Any) -> Any:
    """The text that was asked for, or else that of the first run among the sources."""
    from jaxgpt.data import prepare
    from jaxgpt.training.run import read_run

    if chosen.data is not None:
        return prepare(chosen.data, tokenizer)
    for source in chosen.sources:
        if _is_run(source):
            return read_run(source).data()
    raise UserError("no source is a run of ours, which would know its text: name one by --data")


def config_changes(configs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The fields in which configs differ, with each one's value; a model that is no run has only those of the model."""
    flattened = [flat(config) for config in configs]
    names = dict.fromkeys(name for config in flattened for name in config)
    rows = {name: [str(config.get(name, "")) for config in flattened] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}


def flat(fields: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested fields under names with dots, as flags are spelled."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def table_cells(rows: list[Compared]) -> tuple[list[str], list[list[str]]]:
    """The comparison for people: a head and rows."""
    head = ["model", "parameters", "nats per token", "bits per byte", "beside the first", "documents"]
    cells = [
        [
            row.source,
            f"{row.parameters:,}",
            f"{row.loss:.4f}",
            f"{row.bits_per_byte:.4f} ± {row.standard_error or 0:.4f}",
            "" if row.difference is None else f"{row.difference:+.4f} ± {row.difference_error or 0:.4f}",
            f"{row.documents:,}",
        ]
        for row in rows
    ]
    return head, cells


def as_table(head: list[str], rows: list[list[str]]) -> Table:
    """A table on a terminal."""
    table = Table(*head, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    return table


def _compared(source: str, parameters: int, scores: "DocumentScores", first: "DocumentScores | None") -> Compared:
    from jaxgpt.evaluation.compare import difference

    bits, more = scores.bits_per_byte, None if first is None else difference(first, scores)
    return Compared(
        source,
        parameters,
        scores.loss,
        bits.value,
        bits.standard_error,
        None if more is None else more.value,
        None if more is None else more.standard_error,
        len(scores.nats),
    )


def _is_run(source: Path) -> bool:
    from jaxgpt.training.run import is_run

    return is_run(source)
