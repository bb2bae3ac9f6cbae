"""The three questions that the project began with, answered in plain language with the numbers of a result."""

import html
from collections.abc import Iterator

from experiments.charts import Result


def answers(result: Result) -> Iterator[str]:
    """The three answers as HTML."""
    for question, *said in answered(result):
        parts = "".join(f"<p>{html.escape(part)}</p>" for part in said)
        yield f'<div class="answer"><h3>{html.escape(question)}</h3>{parts}</div>'


def answered(result: Result) -> Iterator[tuple[str, str, str]]:
    """Each question, its answer, and what was measured."""
    large, small = result["gpt2"], result["variants"]
    base, window = large["baseline"], large["windowed"]
    lost = {name: signed(row["parameters_difference"]) for name, row in large.items()}
    cached = {name: f"{row['cache_bytes_per_token']:,}" for name, row in large.items()}
    work = window["flops_per_token"] / base["flops_per_token"]
    kept = window["cache_bytes_full_context"] / base["cache_bytes_full_context"]
    yield (
        "Do rotary positions add parameters?",
        f"No. They take some away: rotary positions have none, and the learned table that they replace is gone. "
        f"GPT-2 124M goes from {base['parameters']:,} to {large['rotary']['parameters']:,} parameters "
        f"({lost['rotary']}: 1024 positions of 768 numbers); the small model trained here, "
        f"{signed(small['rotary']['parameters_difference'])}.",
        compared("rotary", small["rotary"]),
    )
    yield (
        "Does grouped-query attention change the count, and does that depend on the data?",
        f"Yes, it changes the count, and always by the same amount. No, the data do not matter: the count follows from "
        f"the config alone. At 124M, 12 to 4 key-value heads is {lost['grouped-4']}, 12 to 1 is {lost['grouped-1']}. "
        f"The cache shrinks with the heads: {cached['baseline']} to {cached['grouped-4']} bytes a token.",
        "".join(compared(name, row) for name, row in small.items() if name.startswith("grouped")),
    )
    yield (
        "Does a sliding window change it?",
        f"No: {lost['windowed']}, for every window and in every layer. A window has no weights; it decides which keys "
        f"a query attends to. It changes the work ({work:.3f} times the arithmetic at 124M, a window of 256 in a "
        f"context of 1024) and the cache of a full context ({kept:.2f} times).",
        compared("windowed", small["windowed"]),
    )


def compared(name: str, row: Result) -> str:
    """What the loss of a variant says, with what it is sure of."""
    test = row["against_baseline"]
    if test["p"] is None:
        return ""
    direction = "lower" if test["difference"] < 0 else "higher"
    sure = "a significant difference" if test["p"] < 0.05 else "no significant difference"
    return (
        f"Trained here, {name} ends {abs(test['difference']):.3f} ± {test['difference_se']:.3f} nats {direction} "
        f"than the baseline (paired over {test['n']} seeds, p = {test['p']:.2g}: {sure}). "
    )


def signed(number: int) -> str:
    return f"{number:+,}".replace("-", "−") if number else "0"
