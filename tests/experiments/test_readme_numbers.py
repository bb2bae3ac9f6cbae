"""The numbers that README and docs take from committed results are those of the results, as rounded there."""

import re
from pathlib import Path

import pytest

from experiments import evidence

ROOT = Path(__file__).resolve().parent.parent.parent
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


ROWS = {
    "train-float32-4x256": "a step of 4 x 256, float32",
    "train-float32-2x1024": "a step of 2 x 1024, float32",
    "train-bfloat16-4x256": "a step of 4 x 256, bfloat16",
    "decode-float32": "one text, float32",
    "decode-16-bits": 'one text, `weights="bf16"`',
    "decode-8-bits": 'one text, `weights="int8"`',
    "decode-batch-8-float32": "8 texts, float32",
    "decode-batch-8-bfloat16": '8 texts, `weights="bf16"`',
}
RIVALS = {
    "torch eager": "transformers, eager",
    "torch compiled": "transformers, compiled",
    "llama.cpp": "llama.cpp",
    "transformers": "transformers",
}


GPT2 = evidence.read("speed-gpt2-cpu")["rows"]


def gpt2_speed() -> list[tuple[str, list[float]]]:
    """Tokens a second at 124M, ours and theirs, the ratio and its range over the rounds."""
    return [
        (
            f"| {ROWS[name]} | # | {RIVALS[rival]} | # | # | # to # |",
            [
                row["tokens_per_second"]["jaxgpt"],
                row["tokens_per_second"][rival],
                times_as_fast,
                *row["spread"][rival],
            ],
        )
        for name, row in GPT2.items()
        for rival, times_as_fast in row["times_as_fast"].items()
    ]


START = evidence.read("start")
STEP, TOKEN = ("kernels", "gigabytes", "temporary_gigabytes"), ("kernels", "megabytes", "least_megabytes")
SPEED = [*speed("quickstart"), *speed("shakespeare-char-cpu"), *gpt2_speed()]
SERVE = evidence.read("serve")["server"]
CONVERTED = [
    ("(# → # parameters", [SIZES[name]["parameters"] for name in ("baseline", "all")]),
    ("KV cache # → # bytes per token", [SIZES[name]["cache_bytes_per_token"] for name in ("baseline", "all")]),
]
README = [
    *CONVERTED,
    *((says.removesuffix(" # to # |"), numbers[:1]) for says, numbers in SPEED),
    (
        "| GPT-2 124M: training step | transformers, compiled | # |",
        [GPT2["train-float32-4x256"]["times_as_fast"]["torch compiled"]],
    ),
    (
        "| GPT-2 124M: greedy tokens, one text | llama.cpp, f32 | # |",
        [GPT2["decode-float32"]["times_as_fast"]["llama.cpp"]],
    ),
    (
        "| GPT-2 124M: greedy tokens, 8 texts | transformers | # |",
        [GPT2["decode-batch-8-float32"]["times_as_fast"]["transformers"]],
    ),
]
"""Of these the README shows at least one; what it shows is right."""
MODEL = [
    ("| as it is | # | # |", [SIZES["baseline"]["parameters"], SIZES["baseline"]["cache_bytes_per_token"]]),
    ("| rotary positions | # fewer |", [-SIZES["rotary"]["parameters_difference"]]),
    (
        "| 4 key-value heads instead of 12 | # fewer | # |",
        [-SIZES["grouped-4"]["parameters_difference"], SIZES["grouped-4"]["cache_bytes_per_token"]],
    ),
]
COMPILED_SPEED = [
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
SAYS = [
    *(("docs/weights.md", *row) for row in CONVERTED),
    *(("docs/model.md", *row) for row in MODEL),
    *(("docs/speed.md", *row) for row in [*SPEED, *COMPILED_SPEED]),
    ("docs/serving.md", "| `jaxgpt serve` | # | # |", [SERVE["one_after_another"], SERVE["at_once"]]),
    (
        "docs/serving.md",
        "| llama.cpp's server | # | # |",
        [SERVE["llama.cpp_one_after_another"], SERVE["llama.cpp_at_once"]],
    ),
]
"""Where it is said, what is said with # for a number, and the numbers."""


@pytest.mark.parametrize(("page", "says", "numbers"), SAYS, ids=[says for _, says, _ in SAYS])
def test_a_number_of_the_documentation_is_the_result_s(page, says, numbers):
    (shown,) = places(page, says)
    assert_rounded(shown, numbers)


def test_every_speed_and_size_that_the_readme_shows_is_the_result_s():
    shown = [(numbers, place) for says, numbers in README for place in places("README.md", says)]
    assert len(shown) >= 4
    for numbers, place in shown:
        assert_rounded(place, numbers)


def places(page: str, says: str) -> list[tuple[str, ...]]:
    """The numbers of every place of the page that says this."""
    pattern = re.escape(says).replace(r"\#", r"(\d[\d,.]*\d|\d)")
    found = re.findall(pattern, (ROOT / page).read_text(encoding="utf-8"))
    return [(place,) if isinstance(place, str) else place for place in found]


def assert_rounded(shown: tuple[str, ...], numbers: list[float]) -> None:
    for text, number in zip(shown, numbers, strict=True):
        assert text.replace(",", "") == f"{number:.{len(text.partition('.')[2])}f}"
