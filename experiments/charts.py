"""The figures as values: what is drawn, from the committed results; `draw` and `page` say how."""

from collections.abc import Iterator
from typing import Any, NamedTuple

Result = dict[str, Any]


class Series(NamedTuple):
    """One line, or one point with its name."""

    name: str
    x: list[float]
    y: list[float]
    error: list[float | None] | None = None
    """One standard error to each side."""


class Chart(NamedTuple):
    """One picture."""

    name: str
    title: str
    x: str
    y: str
    series: list[Series]
    caption: str
    points: bool = False
    log: str = ""
    """Which axes are logarithmic: "", "x" or "xy"."""


def variant_charts(result: Result) -> Iterator[Chart]:
    """Loss against tokens, seconds, cache and position."""
    rows, base = result["variants"], result["variants"]["baseline"]
    seeds = f"Mean of {result['seeds']} seeds; the band is one standard error."
    yield Chart(
        "loss-tokens",
        "Loss against tokens read",
        "training tokens",
        "validation loss, nats per character",
        [Series(name, *_from_first_update(row["curve"])) for name, row in rows.items()],
        seeds,
    )
    config = result["config"]
    tokens = config["batch_size"] * config["model"]["context_length"]
    second = result["step_seconds_of_baseline"]["processor"] / tokens
    yield Chart(
        "loss-seconds",
        "Loss against processor time",
        "seconds of processor time in training steps",
        "validation loss, nats per character",
        [
            Series(name, *_from_first_update(row["curve"], second / row["train_speed"]["processor"]))
            for name, row in rows.items()
        ],
        "Tokens, times the baseline's median processor time for one, over the variant's speed in interleaved timing.",
    )
    yield Chart(
        "cache-loss",
        "What the cache costs, and what it buys",
        "key-value cache of a full context, KiB",
        "final validation loss, nats per character",
        [
            Series(name, [row["cache_bytes_full_context"] / 1024], [row["loss"]], [row["loss_se"]])
            for name, row in rows.items()
        ],
        f"Left and down is better. Bars: one standard error over {result['seeds']} seeds.",
        points=True,
    )
    yield Chart(
        "loss-position",
        "Where in the context the difference lies",
        "position in the context",
        "loss minus the baseline's, nats per character",
        [
            Series(name, *_binned([a - b for a, b in zip(row["by_position"], base["by_position"], strict=True)]))
            for name, row in rows.items()
        ],
        "Averages over eighths of the context; below zero is better than the baseline.",
    )


def uptrain_charts(result: Result) -> Iterator[Chart]:
    """The way back by conversion, and by kv_init."""
    rows = result["rows"]
    for name in ("rotary", "grouped", "windowed", "all"):
        ways = {"unchanged": "unchanged, text"} | {way: f"{name}, {way}" for way in ("text", "distilled", "scratch")}
        yield Chart(
            f"uptrain-{name}",
            f"The way back: {name}",
            "tokens after the conversion",
            "validation loss, nats per character",
            [_recovery(label, rows[key]) for label, key in ways.items()],
            "Trained on by the text or by distillation; beside it fresh weights, and the unchanged model trained on. "
            f"Mean of {result['seeds']} seeds; the leftmost points are before any training.",
        )
    inits = {"mean": "grouped, text", "first": "grouped, first, text", "svd": "grouped, svd, text"}
    yield Chart(
        "kv-init",
        "Which key-value initialisation recovers fastest",
        "tokens after the conversion",
        "validation loss, nats per character",
        [_recovery(label, rows[key]) for label, key in inits.items()],
        f"4 key-value heads to 1; mean of {result['seeds']} seeds.",
    )


def window_charts(result: Result) -> Iterator[Chart]:
    """Seconds and memory against context length."""
    for name, title, key, unit in (
        ("window-time", "A training step against context length", "step_processor_seconds", "processor seconds"),
        ("window-memory", "Memory of a training step", "step_temporary_megabytes", "temporary memory, MB"),
        (
            "window-decode",
            "A decoded token against context length",
            "token_processor_milliseconds",
            "processor ms a token",
        ),
    ):
        series = [Series(label, *_present(rows, key)) for label, rows in result["rows"].items()]
        yield Chart(name, title, "context length / 1024 tokens", unit, series, "Both axes are logarithmic.", log="xy")


def parallel_charts(result: Result) -> Iterator[Chart]:
    """The losses of all modes."""
    yield Chart(
        "parallel-losses",
        "The same losses in every mode",
        "step",
        "training loss, nats per character",
        [Series(name, list(range(len(row["losses"]))), row["losses"]) for name, row in result["modes"].items()],
        f"The largest relative difference is {result['largest_relative_difference']:.1e}.",
    )


def pretrained_charts(result: Result) -> Iterator[Chart]:
    """What the cache costs, and what it buys."""
    yield Chart(
        "pretrained-bits",
        "Bits per byte against the size of the cache",
        "key-value cache, bytes a token",
        "bits per byte",
        [
            Series(name, [row["cache_bytes_per_token"]], [row["bits_per_byte"]], [row["bits_per_byte_se"]])
            for name, row in result["models"].items()
        ],
        f"Left and down is better. Bars: one standard error over {result['documents']} documents.",
        points=True,
    )


def optimizer_charts(result: Result) -> Iterator[Chart]:
    """Loss against tokens, for each preset."""
    for preset, found in result["presets"].items():
        yield Chart(
            f"optimizers-{preset}",
            f"AdamW and Muon, {preset}",
            "training tokens",
            "validation loss, nats per token",
            [Series(name, *_from_first_update(row["curve"])) for name, row in found["optimizers"].items()],
            f"Mean of {result['seeds']} seeds, each at its best learning rate; the band is one standard error.",
        )


CHARTS = {
    "variants-cpu": variant_charts,
    "uptrain-cpu": uptrain_charts,
    "window": window_charts,
    "parallel": parallel_charts,
    "pretrained": pretrained_charts,
    "optimizers": optimizer_charts,
}
"""Which result has which charts."""


def charts(results: dict[str, Result]) -> list[Chart]:
    """Of all results that there are."""
    return [chart for name, make in CHARTS.items() if name in results for chart in make(results[name])]


def _from_first_update(curve: Result, scale: float = 1.0) -> tuple[list[float], list[float], list[float | None]]:
    """Without the loss of fresh weights, which would flatten all the rest."""
    return [scale * tokens for tokens in curve["tokens"][1:]], curve["validation"][1:], curve["validation_se"][1:]


def _recovery(label: str, row: Result) -> Series:
    return Series(label, row["tokens"], row["validation"], row["validation_se"])


def _binned(values: list[float]) -> tuple[list[float], list[float]]:
    size = max(len(values) // 8, 1)
    starts = range(0, len(values) - size + 1, size)
    return [start + (size - 1) / 2 for start in starts], [sum(values[start : start + size]) / size for start in starts]


def _present(rows: list[Result], key: str) -> tuple[list[float], list[float]]:
    found = [row for row in rows if row.get(key) is not None]
    return [row["length"] / 1024 for row in found], [row[key] for row in found]
