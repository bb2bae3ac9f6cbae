"""What `python -m experiments.peers_open` reads from what its judges print; the command itself asks the judges."""

import pytest

from jaxgpt.errors import UserError

pytest.importorskip("torch", reason="nanoGPT is a program of torch")

from experiments import evidence, peers_open

SAID = """\
OK (LOGITS), max_diff = 2.500000e-06
dwte
OK 0.010 0.010
TENSOR OK, maxdiff = 1.000000e-07
dwpe
OK 0.010 0.010
TENSOR OK, maxdiff = 3.000000e-07
""" + "".join(f"step {step}: loss {5 - step:.6f} (took 1.0 ms) OK = 1\n" for step in range(10))


def test_the_numbers_of_llmcs_test_are_read():
    losses = [5.0 - step for step in range(9)] + [-4.25]
    found = peers_open.read_verdict(SAID + "overall okay: 1\n", losses)
    assert (found["largest_logits_difference"], found["largest_gradients_difference"]) == (2.5e-6, 3e-7)
    assert (found["gradient_tensors"], found["largest_losses_difference"]) == (2, 0.25)
    assert found["passed"]
    assert not peers_open.read_verdict(SAID + "overall okay: 0\n", losses)["passed"]


def test_the_hard_coded_losses_are_replaced_and_nothing_else():
    source = "int a = 1;\nfloat expected_losses[10] = {\n  5.27f,\n  4.05f\n};\nint b = 2;"
    expected = "int a = 1;\nfloat expected_losses[10] = {1.5f, 2.5f};\nint b = 2;"
    assert peers_open.with_losses(source, [1.5, 2.5]) == expected
    with pytest.raises(UserError, match="another version of llm"):
        peers_open.with_losses("int a = 1;", [1.5])


def test_without_a_judge_there_is_no_verdict(tmp_path):
    for flags, words in (
        ({}, "there is no judge"),
        ({"llmc": tmp_path}, "has no test_gpt2.c"),
        ({"nanogpt": tmp_path}, "has no model.py"),
    ):
        with pytest.raises(UserError, match=words):
            peers_open.main(**flags, results=tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_committed_verdict_is_within_the_bounds():
    found = evidence.read("peers-open")
    theirs = found["llm.c"]
    assert theirs["passed"]
    assert theirs["gradient_tensors"] == 16
    assert all(theirs[f"largest_{name}_difference"] < bound for name, bound in peers_open.BOUNDS.items())
    cases = found["nanoGPT"]["largest_logit_difference"]
    assert cases.keys() == peers_open.NANOGPT_CASES.keys()
    assert max(cases.values()) < peers_open.BOUNDS["logits"]
