"""The measurements of a day with a GPU, at the size of a CPU: parts that fail, what is kept, whether it is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import gpu_accuracy, gpu_day, gpu_parts, gpu_rivals
from experiments.gpu_parts import Context, Part
from tests import reference

ROOT = Path(__file__).resolve().parent.parent.parent
DEVICE = {"environment": {"device": "NVIDIA H200", "size": "tiny", "jax": "1"}, "matmul_flops_per_second": 1e9}


@pytest.fixture
def day(tmp_path, monkeypatch):
    """Starts the day with parts whose rows are given, and returns the result and the parts that were made."""
    monkeypatch.setattr(gpu_day, "PARTS", {name: Part(9, iter) for name in ("device", "one", "two")})

    def start(device=DEVICE, **rows):
        made = []

        def make(part, *_):
            made.append(part)
            yield from {"device": {"device": device}, **rows}[part].items()

        monkeypatch.setattr(gpu_day, "made", make)
        return gpu_day.main(gpu_day.Arguments(("one", "two"), results=tmp_path)), made

    return start


def test_a_second_start_makes_what_is_missing_or_failed(day, tmp_path, capsys):
    rows = {"one": {"a": {"measured": "1 ms"}, "b": {"failed": "no engine"}}, "two": {"c": {"measured": "2 ms"}}}
    first, made = day(**rows)
    assert made == ["device", "one", "two"]
    assert json.loads((tmp_path / "gpu-day-nvidia-h200.json").read_text()) == first
    assert "no engine" in capsys.readouterr().out.splitlines()[-2]
    second, made = day(one={"a": {"measured": "1 ms"}, "b": {"measured": "3 ms"}})
    assert made == ["device", "one"]
    assert second["rows"]["b"] == {"measured": "3 ms"}
    assert second["rows"]["c"] == {"measured": "2 ms"}
    assert day()[1] == ["device"]


def test_rows_of_other_versions_are_made_again(day):
    rows = {"one": {"a": {"measured": "1"}}, "two": {"b": {"measured": "2"}}}
    day(**rows)
    newer = {**DEVICE, "environment": {**DEVICE["environment"], "jax": "2"}}
    assert day(newer, **rows)[1] == ["device", "one", "two"]


@pytest.mark.parametrize(
    ("code", "limit", "row"),
    [
        ('print(\'row: \' + \'{"a": {"measured": "1"}}\')', 60, {"a": {"measured": "1"}}),
        (
            "raise ValueError('the engine is missing')",
            60,
            {"p": {"failed": "ValueError: the engine is missing (exit code 1)"}},
        ),
        (
            "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)",
            1,
            {"p": {"failed": "it took more than 1 seconds"}},
        ),
    ],
)
def test_a_part_that_fails_or_hangs_says_why(code, limit, row, monkeypatch):
    monkeypatch.setattr(gpu_day, "PARTS", {"p": Part(limit, iter)})
    usual = subprocess.Popen
    monkeypatch.setattr(
        gpu_day.subprocess, "Popen", lambda _, **options: usual([sys.executable, "-c", code], **options)
    )
    assert dict(gpu_day.made("p", DEVICE, gpu_day.Arguments(), gpu_day.time.monotonic() + 60)) == row


def test_a_row_of_a_program_that_raises_has_its_message():
    assert gpu_parts.attempt("a", lambda: 1 / 0) == ("a", {"failed": "ZeroDivisionError: division by zero"})


def test_numbers_that_are_none_are_left_out_of_a_row():
    row = gpu_accuracy.judged({"forward": float("nan")}, "float32")
    assert "forward nan" in row["failed"]
    assert gpu_parts.finite({"losses": [1.0, float("inf")], **row})["losses"] == [1.0, None]


def test_the_exact_attention_is_the_reference_and_its_gradients_are_slopes():
    rng = np.random.default_rng(0)
    q, k, v, aim = (rng.normal(size=(1, 7, heads, 4)) for heads in (4, 2, 2, 4))
    y, *gradients = gpu_accuracy.exact_attention(q, k, v, aim, window=3, scale=0.5)
    np.testing.assert_allclose(y, reference.attention(q, k, v, window=3, scale=0.5), atol=1e-12)
    for at, gradient in enumerate(gradients):
        way, step = rng.normal(size=gradient.shape), 1e-6
        ends = [[x + sign * step * way if n == at else x for n, x in enumerate((q, k, v))] for sign in (1, -1)]
        up, down = ((gpu_accuracy.exact_attention(*end, aim, window=3, scale=0.5)[0] * aim).sum() for end in ends)
        assert (gradient * way).sum() == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_a_wrong_window_is_no_rounding():
    found = gpu_accuracy.attention("xla", "float32", 4, 2, 20, 48)
    assert "failed" not in found
    usual = gpu_accuracy.BACKENDS["xla"]
    gpu_accuracy.BACKENDS["off by one"] = lambda *x, window, **rest: usual(*x, window=window + 1, **rest)
    try:
        assert "differs from float64" in gpu_accuracy.attention("off by one", "bfloat16", 4, 2, 20, 48)["failed"]
    finally:
        del gpu_accuracy.BACKENDS["off by one"]


def test_a_rival_with_other_losses_is_no_rival():
    rows = {"train 124M": {"tokens_per_second": 3.0, "losses": [2.0, 1.0]}}
    rows |= {
        name: {"tokens_per_second": 2.0, "losses": [2.0, last]}
        for name, last in (("nanoGPT", 1.01), ("transformers", 1.1))
    }
    gpu_rivals.beside_ours(rows)
    assert rows["nanoGPT"]["times_as_fast"] == 1.5
    assert rows["transformers"]["times_as_fast"] is None


@pytest.mark.slow
def test_the_whole_day_at_the_size_of_a_cpu(tmp_path):
    command = [sys.executable, "-m", "experiments.gpu_day", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "gpu-day-cpu.json").read_text())
    failed = {name: row["failed"] for name, row in result["rows"].items() if "failed" in row}
    assert failed == {"nanoGPT": "RuntimeError: give the folder of a checkout: --nanogpt FOLDER"}
    assert result["rows"]["transformers"]["losses_apart"] < 1e-4
    assert result["done"] == [part for part in gpu_parts.PARTS if part != "nanoGPT"]


def test_the_context_knows_whether_it_is_small():
    assert Context(DEVICE).tiny
