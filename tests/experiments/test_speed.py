"""The benchmark beside PyTorch, made small: its rows are there, and a ratio of different programs is void."""

import dataclasses
import json
import math

import pytest

pytest.importorskip("torch", reason="torch is what is compared with, and not installed")
pytest.importorskip("transformers")

from experiments import peers, speed
from jaxgpt.config import GPTConfig
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.training.config import TrainConfig
from tests.runs import quick_compilation

TINY = TrainConfig(model=GPTConfig.preset("tiny", num_layers=1), batch_size=4, steps=8)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(speed, "timed_config", lambda _: TINY)
    with quick_compilation():
        yield


def rows(tmp_path, *kinds):
    arguments = speed.Arguments(
        "tiny", kinds, rounds=1, steps=2, decode_rows=(2,), new_tokens=6, results=tmp_path / "results"
    )
    result = speed.main(arguments)
    kept = json.loads((tmp_path / "results" / "speed-tiny-cpu.json").read_text())
    assert kept.keys() == result.keys()
    return result


@pytest.mark.slow
def test_both_sides_train_and_decode_alike(tmp_path):
    result = rows(tmp_path, "train", "products", "decode")
    step, decode = result["rivals"]["torch eager"], result["decode"]["batch 2"]
    assert step["losses_apart"] < 1e-5
    assert decode["tokens_alike"] == 1
    assert step["times_as_fast"] == pytest.approx(step["seconds_per_step_theirs"] / step["seconds_per_step"])
    assert decode["tokens_per_second"] > 0
    assert step["peak_gigabytes"] > 0
    assert step["peak_gigabytes_theirs"] is None  # nobody counts on a CPU


def test_a_ratio_of_different_programs_is_void(tmp_path, monkeypatch):
    usual = peers.transformers_loss

    def other(model):
        loaded, loss = usual(model)
        loaded.transformer.h[0].mlp.c_proj.weight.data *= 1.5
        return loaded, lambda inputs, targets: 1.001 * loss(inputs, targets)

    monkeypatch.setattr(peers, "transformers_loss", other)
    assert rows(tmp_path, "train")["rivals"]["torch eager"]["times_as_fast"] is None


def test_a_folder_without_nanogpt_is_refused(tmp_path):
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    model = initial_state(dataclasses.replace(TINY), one_device()).model
    with pytest.raises(ValueError, match=r"has no model.py; give the folder of a nanoGPT checkout"):
        peers.nanogpt_loss(model, tmp_path)


def test_the_products_of_a_step_are_its_arithmetic():
    """Six operations for each weight and token, and twelve widths for each pair of tokens, none masked away."""
    for config in (TINY, dataclasses.replace(TINY, model=GPTConfig.preset("gpt2", num_layers=3))):
        done = sum(2 * math.prod(a) * b[-1] * count for (a, b), count in speed.products(config).items())
        model, tokens = config.model, config.batch_size * config.model.context_length
        padding = 6 * (model.padded_vocab_size - model.vocab_size) * model.d_model
        assert done == (flops_per_token(model, causal=False) + padding) * tokens
