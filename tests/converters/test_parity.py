import json

import numpy as np
import pytest

from converters import load_pretrained

TINY = {"vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"scale_attn_by_inverse_layer_idx": True},  # Mistral's, by Stanford CRFM
        {"activation_function": "gelu", "n_inner": 80},  # Cerebras-GPT
        {"activation_function": "relu"},
        {"activation_function": "silu"},
        {"tie_word_embeddings": False},
        {"layer_norm_epsilon": 1e-2},
        {"vocab_size": 131},
    ],
    ids=lambda fields: ",".join(fields) or "gpt2",
)
def test_a_transformers_gpt2_computes_the_same_here(oracle, tokens, tmp_path, fields):
    theirs = oracle.model("GPT2", **(TINY | fields))
    theirs.save_pretrained(tmp_path)
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound


def test_the_order_of_upcasting_changes_nothing(oracle, tokens, tmp_path):
    theirs = oracle.model("GPT2", **TINY)
    theirs.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"reorder_and_upcast_attn": True}))  # Mistral's
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound


def test_gradients_are_transformers_gradients(oracle, tokens, tmp_path):
    theirs = oracle.model("GPT2", **TINY)
    theirs.save_pretrained(tmp_path)
    assert oracle.gradient_error(load_pretrained(tmp_path), theirs, "gpt2", tokens) < oracle.gradient_bound


def test_the_124m_shape_computes_the_same_here(oracle, tmp_path):
    theirs = oracle.model("GPT2")
    theirs.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 50257, (1, 32))
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound
