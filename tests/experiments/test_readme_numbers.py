"""The numbers that the README's own text takes from committed results are those of the results, as rounded there."""

import re

import pytest

from experiments import evidence
from experiments.summary import BEGIN, END, README

SIZES, COMPILED = evidence.read("variants-cpu")["gpt2"], evidence.read("gpu_report")["rows"]


def compiled(row: str, *keys: str) -> list[float]:
    return [COMPILED[row][key] for key in keys]


def speed(preset: str) -> list[tuple[str, list[float]]]:
    """A preset's rows: the ratio to each rival, and its range over the rounds."""
    result = evidence.read(f"speed-{preset}-cpu")

    def row(program: str, rival: str, found: dict) -> tuple[str, list[float]]:
        return f"| {program} | {rival} | # | # to # |", [found["times_as_fast"], *found["spread"]]

    def written(rival: str) -> str:
        return rival.replace("torch", "transformers").replace(" ", ", ")

    training, decoding = f"training step, `{preset}`", f"greedy tokens, `{preset}`"
    return [
        *(row(training, written(rival), found) for rival, found in result["rivals"].items()),
        *(row(f"{decoding}, {rows}", "transformers, static cache", found) for rows, found in result["decode"].items()),
    ]


START = evidence.read("start")
STEP, TOKEN = ("kernels", "gigabytes", "temporary_gigabytes"), ("kernels", "megabytes", "least_megabytes")
SAYS = [
    ("| `gpt2` | # |", [SIZES["baseline"]["parameters"]]),
    ("rotary in place of learned positions is # parameters less", [-SIZES["rotary"]["parameters_difference"]]),
    ("4 key-value heads instead of 12 are # less", [-SIZES["grouped-4"]["parameters_difference"]]),
    ("(# → # parameters", [SIZES[name]["parameters"] for name in ("baseline", "all")]),
    ("KV cache # → # bytes per token", [SIZES[name]["cache_bytes_per_token"] for name in ("baseline", "all")]),
    *speed("quickstart"),
    *speed("shakespeare-char-cpu"),
    (
        "| `jaxgpt train` until its first step begins | # s the first time, # s later |",
        [START[when]["first_step_begins"] for when in ("first", "later")],
    ),
    ("the header stands after # s, then", [START["later"]["header"]]),
    ("| training step, # x # tokens | # | # GB | # GB |", compiled("124M", "batch", "length", *STEP)),
    ("| the same on each of eight, data parallel | # | # GB | # GB |", compiled("124M, data 8", *STEP)),
    ("| the same on each of eight, fully sharded | # | # GB | # GB |", compiled("124M, fsdp 8", *STEP)),
    ("| a token of one row, context 1024 | # | # MB; at least # |", compiled("decode, batch 1", *TOKEN)),
    ("| a token of # rows | # | # MB; at least # |", compiled("decode, batch 8", "batch", *TOKEN)),
    (
        "| a token of # rows, 4 key-value heads | # | # MB; at least # |",
        compiled("decode, batch 64, 4 KV heads", "batch", *TOKEN),
    ),
    ('by cuDNN (`attention="cudnn"`), one row | # | # MB; at least # |', compiled("decode by cuDNN, batch 1", *TOKEN)),
    ("by cuDNN, # rows | # | # MB; at least # |", compiled("decode by cuDNN, batch 8", "batch", *TOKEN)),
    (
        "by cuDNN, # rows, 4 key-value heads | # | # MB; at least # |",
        compiled("decode by cuDNN, batch 64, 4 KV heads", "batch", *TOKEN),
    ),
    ("by our kernels (`fused=True`), one row | # | # MB; at least # |", compiled("decode fused, batch 1", *TOKEN)),
    ("by our kernels, # rows | # | # MB; at least # |", compiled("decode fused, batch 8", "batch", *TOKEN)),
    (
        "by our kernels, # rows, 4 key-value heads | # | # MB; at least # |",
        compiled("decode fused, batch 64, 4 KV heads", "batch", *TOKEN),
    ),
]
"""What is said, # for a number and … for words of the same line that do not matter, and the numbers."""


@pytest.mark.parametrize(("says", "numbers"), SAYS, ids=[says for says, _ in SAYS])
def test_a_number_of_the_readme_is_the_result_s(says, numbers):
    before, _, rest = README.read_text().partition(BEGIN)
    pattern = re.escape(says).replace(r"\#", r"(\d[\d,.]*\d|\d)").replace("…", ".*?")
    places = re.findall(pattern, before + rest.partition(END)[2])
    assert len(places) == 1
    shown = [places[0]] if isinstance(places[0], str) else places[0]
    for text, number in zip(shown, numbers, strict=True):
        assert text.replace(",", "") == f"{number:.{len(text.partition('.')[2])}f}"
