import json
import math
import re

import numpy as np
import pytest

from experiments import evidence
from experiments.interleaved import times_as_fast


def test_a_paired_test_is_student_s_of_the_differences():
    ours, theirs = np.random.default_rng(0).normal(size=(2, 5))
    found = evidence.paired(ours.tolist(), theirs.tolist())
    t = (ours - theirs).mean() / ((ours - theirs).std(ddof=1) / math.sqrt(5))
    # Student's distribution with 4 degrees of freedom, by its closed form
    x = abs(t) / math.sqrt(t * t + 4)
    assert found["p"] == pytest.approx(1 - (1.5 * x - 0.5 * x**3))
    assert found["difference"] == pytest.approx((ours - theirs).mean())
    assert found["n"] == 5


def test_one_seed_and_the_baseline_itself_prove_nothing():
    assert evidence.paired([1.0], [2.0])["p"] is None
    assert evidence.paired([1.0, 2.0], [1.0, 2.0])["p"] is None
    assert evidence.standard_error([1.0]) is None


def test_a_result_is_read_back_as_it_was_but_for_its_sixth_digit(tmp_path):
    evidence.write("one", {"a": [1.23456789, None], "b": {"c": 12345678}}, tmp_path)
    assert evidence.read("one", tmp_path) == {"a": [1.2346, None], "b": {"c": 12345678}}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_a_number_that_json_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        evidence.write("one", {"a": math.nan}, tmp_path)


@pytest.mark.parametrize("path", sorted(evidence.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_result_says_where_it_comes_from_and_no_path_of_a_machine(path):
    text = path.read_text()
    assert "environment" in json.loads(text)
    assert not re.search(r"(?<![\w.])/\w+/", text)  # an absolute path: a slash that nothing stands before


def test_the_ratio_is_how_many_times_as_fast_the_other_is():
    def spin(count: int):
        return lambda: sum(range(count))

    found = times_as_fast(spin(200_000), spin(800_000), rounds=6)
    assert 2.5 < found["processor"] < 6.5
    assert found["wall_low"] <= found["wall"] <= found["wall_high"]
