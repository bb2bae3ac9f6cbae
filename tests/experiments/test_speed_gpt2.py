"""The table of GPT-2 on a CPU: rows made apart are kept, and each ratio stands beside its goal."""

import json

import pytest

from experiments import evidence, speed_gpt2


def test_rows_are_made_in_pieces_and_kept(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(speed_gpt2, "decode", lambda row, rounds: made.append(row) or {"rounds": rounds})
    monkeypatch.setattr(evidence, "environment", lambda *_: {})
    speed_gpt2.rows(("decode-8-bits",), 1, "", tmp_path)
    speed_gpt2.rows(("decode-float32",), 2, "", tmp_path)
    kept = json.loads((tmp_path / "speed-gpt2-cpu.json").read_text())["rows"]
    assert [(name, row["rounds"]) for name, row in kept.items()] == [("decode-float32", 2), ("decode-8-bits", 1)]
    assert [row.weights for row in made] == ["int8", None]


def test_a_goal_is_reached_by_the_median_of_the_ratios():
    found = speed_gpt2.compared({"jaxgpt": [10.0, 30.0, 12.0], "llama.cpp": [10.0, 10.0, 10.0]}, {"llama.cpp": 1.25})
    assert found["times_as_fast"] == {"llama.cpp": pytest.approx(1.2)}
    assert found["spread"] == {"llama.cpp": [1.0, 3.0]}
    assert found["reached"] == {"llama.cpp": False}
