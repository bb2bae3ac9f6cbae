"""The commands as they are typed, at their CPU size: each gives its committed result again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import evidence, host_memory, start

ROOT = Path(__file__).resolve().parent.parent.parent
DRIFT = 1e-3
"""Nats between two machines. Two runs on one are equal in all five digits that are saved; with an older processor's
instructions (XLA_FLAGS=--xla_cpu_max_isa=AVX) losses after 400 and 650 updates differ by 1e-4. Seeds differ by 1e-2."""


def again(module: str, tmp_path: Path, shakespeare: Path, *flags: str) -> dict:
    """What `python -m experiments.MODULE` writes."""
    environment = os.environ | {"JAXGPT_SHAKESPEARE": str(shakespeare), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", f"experiments.{module}", "--results", str(tmp_path / "results"), *flags]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (tmp_path / "results").glob("*.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_first_seed_of_every_variant_ends_at_its_committed_loss(tmp_path, shakespeare):
    found = again("variants", tmp_path, shakespeare, "--seeds", "1", "--rounds", "1")
    kept = evidence.read("variants-cpu")
    for name, row in kept["variants"].items():
        ours = found["variants"][name]
        assert ours["losses"][0] == pytest.approx(row["losses"][0], abs=DRIFT), name
        for exact in ("parameters", "flops_per_token", "cache_bytes_per_token", "cache_bytes_full_context"):
            assert ours[exact] == row[exact]


@pytest.mark.slow
def test_every_parallel_mode_ends_at_its_committed_loss_and_sends_as_many_bytes(tmp_path, shakespeare):
    found = again("parallel", tmp_path, shakespeare)
    kept = evidence.read("parallel")
    assert found["largest_relative_difference"] < 1e-5  # 2.4e-7 was measured
    for name, row in kept["modes"].items():
        ours = found["modes"][name]
        assert ours["losses"] == pytest.approx(row["losses"], abs=DRIFT)
        assert ours["state_bytes_per_device"] == row["state_bytes_per_device"]
        assert ours["wire_bytes_per_step"] == pytest.approx(ours["wire_bytes_by_formula"], rel=1e-3, abs=100)


@pytest.mark.slow
def test_uptraining_brings_the_first_seed_back_as_committed(tmp_path, shakespeare):
    found = again("uptrain", tmp_path, shakespeare, "--seeds", "1")
    kept = evidence.read("uptrain-cpu")
    assert kept["seeds"] == 2
    for name, row in kept["rows"].items():  # of two, each is one standard error from their mean
        ours = found["rows"][name]["validation"]
        for loss, mean, error in zip(ours, row["validation"], row["validation_se"], strict=True):
            assert abs(loss - mean) == pytest.approx(error, abs=DRIFT), name


def test_a_mode_trains_as_one_device_sends_what_the_formula_says_and_a_device_holds_its_part():
    """Of the committed result: the program was read when it was made."""
    modes = evidence.read("parallel")["modes"]
    assert "hybrid, two processes" in modes
    for row in modes.values():
        assert row["largest_relative_difference"] < 1e-5
        assert row["wire_bytes_per_step"] == pytest.approx(row["wire_bytes_by_formula"], rel=1e-3, abs=100)
    assert modes["FSDP, 1 x 8"]["state_bytes_per_device"] < modes["DDP, 8 x 1"]["state_bytes_per_device"] / 6


def test_the_banded_window_s_cost_is_a_straight_line_and_full_attention_s_is_not():
    fits, rows = evidence.read("window")["fits"], evidence.read("window")["rows"]["window 256, banded"]
    assert [row["length"] for row in rows if "step_seconds" in row] == [1024 << i for i in range(7)]
    for of in ("step_processor_seconds", "step_temporary_megabytes"):
        assert fits["window 256, banded"][of]["r2"] > 0.99
        assert fits["window 256, banded"][of]["exponent"] < 1.2
        assert fits["full, xla"][of]["exponent"] > 1.6


@pytest.mark.slow
def test_a_start_is_timed_from_the_header_to_the_first_step(tmp_path, shakespeare, monkeypatch):
    monkeypatch.setenv("JAXGPT_SHAKESPEARE", str(shakespeare))
    found = start.main(starts=1, preset="tiny", results=tmp_path)
    for row in (found["first"], found["later"]):
        assert 0 < row["header"] < row["first_step_begins"]
    assert (tmp_path / "start.json").exists()


@pytest.mark.slow
def test_a_step_that_keeps_its_memory_is_timed_beside_one_that_does_not(tmp_path):
    found = host_memory.main(presets=("shakespeare-char-cpu",), rounds=1, seconds_each=1, results=tmp_path)
    row = found["presets"]["shakespeare-char-cpu"]
    assert row["kept"]["page_faults_per_step"] < row["usual"]["page_faults_per_step"] / 10
    assert (tmp_path / "host-memory.json").exists()


def test_a_step_that_keeps_its_memory_has_a_tenth_of_the_page_faults():
    for row in evidence.read("host-memory")["presets"].values():
        assert row["kept"]["page_faults_per_step"] < row["usual"]["page_faults_per_step"] / 10
