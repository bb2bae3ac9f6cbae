import json

import numpy as np
import pytest

from converters import load_pretrained

pytestmark = pytest.mark.usefixtures("optimised")

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


# What config.json of published models says besides the common fields; sizes are made small for the test.
COMMON = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 50256, "eos_token_id": 50256}
COMMON |= {"initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
COMMON |= {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1}
SUMMARY = {"summary_type": "cls_index", "summary_use_proj": True, "summary_activation": None}
SUMMARY |= {"summary_first_dropout": 0.1, "summary_proj_to_labels": True}
PUBLISHED = {
    "distilgpt2": SUMMARY
    | {"n_ctx": 1024, "_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    | {"task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "n_layer": 3},
    "DialoGPT": SUMMARY | {"n_ctx": 1024, "task_specific_params": {"conversational": {"max_length": 1000}}},
    "CRFM": SUMMARY
    | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "scale_attn_weights": True}
    | {"n_ctx": 1024, "n_inner": None, "gradient_checkpointing": False, "use_cache": False, "torch_dtype": "float32"},
    "Cerebras-GPT": {"activation_function": "gelu", "n_inner": 128, "scale_attn_weights": True, "use_cache": True}
    | {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "torch_dtype": "float32"},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_configs_of_published_models_compute_the_same_here(oracle, tokens, tmp_path, name):
    fields = COMMON | TINY | PUBLISHED[name]
    # Not reorder_and_upcast_attn: it changes no number, but would keep the oracle from computing in float64.
    asked = {*TINY, "scale_attn_by_inverse_layer_idx", "activation_function", "n_inner"} & fields.keys()
    theirs = oracle.model("GPT2", **{field: fields[field] for field in asked})
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound


def test_gradients_are_transformers_gradients(oracle, tokens, tmp_path):
    theirs = oracle.model("GPT2", **TINY)
    theirs.save_pretrained(tmp_path)
    assert oracle.gradient_error(load_pretrained(tmp_path), theirs, "gpt2", tokens) < oracle.gradient_bound


@pytest.mark.slow
def test_the_124m_shape_computes_the_same_here(oracle, tmp_path):
    theirs = oracle.model("GPT2")
    theirs.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 50257, (1, 32))
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound
