"""The words and tables of the page. Every number is read from a result; none is typed here."""

import html
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from experiments.answers import answers, signed
from experiments.charts import CHARTS, Result
from experiments.draw import draw_keys, svg
from experiments.page import figure, table

ASKED = {
    "variants-cpu": "variants",
    "uptrain-cpu": "uptrain",
    "window": "window",
    "parallel": "parallel",
    "pretrained": "pretrained",
    "optimizers": "optimizers",
}
"""Which module asks the question of a result."""
NAMES = tuple(ASKED)
TITLES = {
    "variants-cpu": "The variants, trained beside each other",
    "uptrain-cpu": "Changing a model that is trained",
    "window": "Long contexts",
    "parallel": "Many devices",
    "pretrained": "Beside OpenAI's numbers",
    "optimizers": "AdamW and Muon",
}


KEYS = (
    "Above: rows are queries, columns the keys they see; paler where only some layers do. Below: which key-value head "
    "each query head reads."
)


def sections(results: dict[str, Result]) -> Iterator[str]:
    """The page from top to bottom."""
    if "variants-cpu" in results:
        yield from answers(results["variants-cpu"])
    for name, result in results.items():
        yield from section(name, result)


def section(name: str, result: Result) -> Iterator[str]:
    """A result: command, tables, figures, what it does not show, environment."""
    question, limits = asked(name)
    yield f'<h2 id="{name}">{TITLES[name]}</h2>\n<p>{html.escape(question)}</p>'
    yield f"<pre>{html.escape(result['environment']['command'])}</pre>"
    yield from TABLES[name](result)
    if name == "variants-cpu":
        picture = svg(draw_keys(result))
        yield f'<figure id="keys"><div class="still">{picture}</div><figcaption>{KEYS}</figcaption></figure>'
    if name in CHARTS:
        yield from (figure(chart) for chart in CHARTS[name](result))
    yield f'<p class="note">{html.escape(limits)}</p>'
    facts = table(("environment", ""), result["environment"].items(), "wide")
    yield f"<details><summary>The machine and the versions</summary>{facts}</details>"


def asked(name: str) -> tuple[str, str]:
    """The question of an experiment, and what it does not show, as its module says them."""
    text = inspect.getdoc(importlib.import_module(f"experiments.{ASKED[name]}")) or ""
    limits = " ".join(text[text.index("What it does not show") :].split())
    return text.splitlines()[0], limits


def variant_tables(result: Result) -> Iterator[str]:
    head = ("variant", "parameters", "difference", "FLOPs a token", "cache, bytes a token", "cache, full context")
    for title, rows in (
        ("GPT-2 124M, a window of 256", result["gpt2"]),
        ("The model trained here", result["variants"]),
    ):
        keys = ("flops_per_token", "cache_bytes_per_token", "cache_bytes_full_context")
        cells = (
            (
                name,
                f"{row['parameters']:,}",
                signed(row["parameters_difference"]),
                *(f"{row[key]:,.0f}" for key in keys),
            )
            for name, row in rows.items()
        )
        yield f"<h3>{title}</h3>{table(head, cells)}"
    yield "<h3>Measured</h3>" + table(
        ("variant", "validation loss", "against baseline", "p", "training speed", "decoding speed"),
        (
            (
                name,
                plus_minus(row["loss"], row["loss_se"]),
                "" if name == "baseline" else difference(row),
                p_value(row),
                ratio(row["train_speed"]),
                ratio(row["decode_speed"]),
            )
            for name, row in result["variants"].items()
        ),
    )
    yield (
        '<p class="note">Speeds are how many times as fast as the baseline, by processor time, medians of rounds timed '
        "in turns; in brackets by the clock. The baseline beside itself shows how far to trust them.</p>"
    )


def uptrain_tables(result: Result) -> Iterator[str]:
    yield f"<p>The baseline before any change: {result['baseline_loss']:.4f} nats per character.</p>" + table(
        ("conversion, way back", "at once", "after", "standard error"),
        (
            (name, f"{row['at_once']:.4f}", f"{row['after']:.4f}", f"{row['validation_se'][-1] or 0:.4f}")
            for name, row in result["rows"].items()
        ),
    )
    yield "<h3>Which key-value initialisation</h3>" + table(
        ("kv_init beside the mean", "at the end", "p", "on the way", "p"),
        (
            (
                name,
                *(
                    cell
                    for which in ("at_the_end", "on_the_way")
                    for cell in (
                        difference({"against_baseline": row[which]}),
                        p_value({"against_baseline": row[which]}),
                    )
                ),
            )
            for name, row in result["kv_init"].items()
        ),
    )


def plain_tables(result: Result) -> Iterator[str]:
    """Results that are tables already: a head and rows."""
    for found in result["tables"]:
        yield f"<h3>{html.escape(found['title'])}</h3>{table(found['head'], found['rows'], found.get('kind', ''))}"


TABLES: dict[str, Callable[[Result], Iterator[str]]] = {
    "variants-cpu": variant_tables,
    "uptrain-cpu": uptrain_tables,
    **dict.fromkeys(("window", "parallel", "pretrained", "optimizers"), plain_tables),
}


def plus_minus(value: float, error: float | None) -> str:
    return f"{value:.4f} ± {error:.4f}" if error is not None else f"{value:.4f}"


def difference(row: dict[str, Any]) -> str:
    test = row["against_baseline"]
    error = "" if test["difference_se"] is None else f" ± {test['difference_se']:.4f}"
    return f"{test['difference']:+.4f}".replace("-", "−") + error


def p_value(row: dict[str, Any]) -> str:
    p = row["against_baseline"]["p"]
    return "" if p is None else f"{p:.2g}"


def ratio(speed: dict[str, float]) -> str:
    return f"{speed['processor']:.2f} ({speed['wall']:.2f})"
