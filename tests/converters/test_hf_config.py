"""config.json is read as transformers reads it: transformers itself is asked."""

import json

import numpy as np
import pytest

from converters import load_pretrained
from converters.hf_config import ALIASES, TABLES, config_from_hf
from converters.verification.verify import verify
from jaxgpt.errors import UserError

TINY = {"vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
STARCODER2 = {"vocab_size": 97, "max_position_embeddings": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
STARCODER2 |= {"hidden_size": 32, "num_key_value_heads": 2, "intermediate_size": 80}


def edit(folder, drop=(), **fields):
    config = json.loads((folder / "config.json").read_text())
    kept = {name: value for name, value in config.items() if name not in drop}
    (folder / "config.json").write_text(json.dumps(kept | fields))


@pytest.mark.parametrize("kind", ALIASES)
def test_the_aliases_are_those_of_transformers(kind):
    transformers = pytest.importorskip("transformers")
    assert ALIASES[kind] == dict(transformers.CONFIG_MAPPING[kind].attribute_map)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_bigcode"])
@pytest.mark.parametrize("alias", ALIASES["gpt2"])
@pytest.mark.parametrize("both", [False, True])
def test_another_name_of_a_field_is_read_and_wins_as_for_transformers(kind, alias, both):
    transformers = pytest.importorskip("transformers")
    name = ALIASES[kind][alias]
    fields = {"model_type": kind, alias: 24} | ({name: 48} if both else {})
    theirs = getattr(transformers.AutoConfig.for_model(**fields), name)
    ours = next(our for their, our, _ in TABLES[kind] if their == name)
    assert getattr(config_from_hf(fields), ours) == theirs == 24


@pytest.mark.parametrize(
    "fields",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_parameters": {"rope_type": "default", "rope_theta": 20.0}},
        {"rope_theta": 5.0, "rope_parameters": {"rope_type": "default"}},
        {"rope_scaling": {"type": "default", "rope_theta": 7.0}, "rope_parameters": {"rope_theta": 9.0}},
        {},
    ],
)
def test_the_rotary_base_is_read_as_by_transformers(fields):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model("starcoder2", **json.loads(json.dumps(fields)))
    ours = config_from_hf({"model_type": "starcoder2", **fields})
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("name", "fields", "drop", "edits"),
    [
        ("GPT2", TINY | {"n_head": 8}, ["n_head"], {"num_attention_heads": 8}),
        ("GPT2", TINY | {"n_head": 8}, [], {"n_head": 4, "num_attention_heads": 8}),
        ("GPTBigCode", TINY | {"n_head": 8}, [], {"n_head": 4, "num_attention_heads": 8}),
        ("Starcoder2", STARCODER2, [], {"n_head": 8, "partial_rotary_factor": 0.5}),
        ("GPT2", TINY, [], {"n_ctx": 8, "alibi": True, "position_embedding_type": "relative"}),
        ("GPT2", TINY | {"scale_attn_weights": False}, [], {}),
        ("GPT2", TINY | {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, [], {}),
        ("GPTBigCode", TINY | {"scale_attn_weights": False}, [], {}),
    ],
    ids=["alias", "both", "bigcode", "starcoder2", "ignored", "unscaled", "unscaled by layer", "unscaled bigcode"],
)
def test_what_transformers_reads_and_ignores_is_read_and_ignored(oracle, tokens, tmp_path, name, fields, drop, edits):
    oracle.model(name, **fields).save_pretrained(tmp_path)
    edit(tmp_path, drop, **edits)
    assert oracle.logit_error(load_pretrained(tmp_path), oracle.open(tmp_path), tokens) < oracle.logit_bound


@pytest.mark.slow
def test_scores_that_are_not_scaled_are_certified_with_their_gradients(oracle, tmp_path):
    oracle.model("GPT2", **TINY, scale_attn_weights=False).save_pretrained(tmp_path)
    certificate = verify(tmp_path)
    assert certificate.holds, certificate.to_json()


def test_a_value_of_any_length_makes_a_message_of_one_line():
    for value in ("x" * 10**6, [[[1]]] * 10**4, 10**4000, {"a" * 500: 1}):
        with pytest.raises(UserError) as error:
            config_from_hf({"model_type": "gpt2", "activation_function": value})
        assert len(str(error.value)) < 400


def test_the_scale_is_in_the_queries_alone(make_model, tmp_path):
    from converters import save_pretrained
    from jaxgpt.config import GPTConfig
    from jaxgpt.model.parameters import named_parameters

    model = make_model(GPTConfig.preset("tiny"))
    save_pretrained(model, tmp_path / "out")
    edit(tmp_path / "out", scale_attn_weights=False)
    here, before = named_parameters(load_pretrained(tmp_path / "out")), named_parameters(model)
    for name, value in here.items():
        factor = np.float32(8**0.5) if ".attn.query." in name else np.float32(1)
        np.testing.assert_array_equal(value, np.asarray(before[name]) * factor)
