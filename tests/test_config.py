import dataclasses
import json

import pytest

from jaxgpt.config import MODELS, GPTConfig

# A wrong value, what is wrong with it, and what the message offers.
BAD = [
    ({"vocab_size": 0}, "vocab_size=0 must be a whole number of at least 1"),
    ({"context_length": -3}, "context_length=-3 must be a whole number of at least 1"),
    ({"num_layers": 2.0}, "num_layers=2.0 must be a whole number"),
    ({"num_heads": True}, "num_heads=True must be a whole number"),
    ({"d_model": "64"}, "d_model='64' must be a whole number"),
    ({"num_kv_heads": 0}, "num_kv_heads=0 must be a whole number of at least 1"),
    ({"d_mlp": 0}, "d_mlp=0 must be a whole number of at least 1"),
    (
        {"d_model": 12, "num_heads": 5},
        "d_model=12 is not a multiple of num_heads=5; use one of 1, 2, 3, 4, 6, 12 heads",
    ),
    (
        {"num_kv_heads": 5},
        "num_heads=12 is not a multiple of num_kv_heads=5; use one of 1, 2, 3, 4, 6, 12 key-value heads",
    ),
    ({"num_kv_heads": 24}, "num_heads=12 is not a multiple of num_kv_heads=24; use one of"),
    ({"position": "rotary", "d_model": 36}, r"the head size d_model / num_heads = 3 is odd; change num_heads"),
    ({"window": 0}, "window=0 sees nothing: a window counts the query itself, so it is at least 1"),
    ({"window": (4, -1)}, "window=-1 sees nothing: .* at least 1"),
    ({"window": 2.5}, "window=2.5 sees nothing: .* at least 1"),
    ({"window": True}, "window=True sees nothing: .* at least 1"),
    ({"window": ()}, r"window=\(\) names no layer; use None for full attention"),
    ({"attention": "banded"}, "attention='banded' needs a window in every layer; set window, or use attention='xla'"),
    ({"dropout": 1.0}, "dropout=1.0 is not a probability below 1; 0 turns it off"),
    ({"dropout": -0.1}, "dropout=-0.1 is not a probability"),
    ({"dropout": float("nan")}, "dropout=nan is not a probability"),
    ({"layer_norm_epsilon": 0.0}, "layer_norm_epsilon=0.0 must be above 0"),
    ({"rope_theta": -1.0}, "rope_theta=-1.0 must be above 0"),
    ({"position": "rotory"}, "position='rotory' is unknown; did you mean 'rotary'?"),
    ({"activation": "tanh"}, "activation='tanh' is unknown; did you mean 'gelu_tanh'?"),
    ({"dtype": "fp8"}, "dtype='fp8' is unknown; known: float32, bfloat16"),
    ({"attention": "flash"}, "attention='flash' is unknown; known: auto, xla, blocked, banded, cudnn"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[str(change) for change, _ in BAD])
def test_a_bad_value_is_named_with_its_rule_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**change)


def test_a_frozen_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().num_layers = 3
    assert hash(GPTConfig()) == hash(GPTConfig())


@pytest.mark.parametrize(
    "config", [*MODELS.values(), GPTConfig(window=(256, None)), GPTConfig(window=7, num_kv_heads=3)]
)
def test_a_config_survives_json(config):
    assert GPTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_unknown_fields_suggest_the_nearest():
    with pytest.raises(ValueError, match="'num_head' is not a field of GPTConfig; did you mean 'num_heads'?"):
        GPTConfig.from_dict({"num_head": 3})


def test_unknown_presets_suggest_the_nearest():
    with pytest.raises(ValueError, match="there is no model preset 'gpt2-mediun'; did you mean 'gpt2-medium'?"):
        GPTConfig.preset("gpt2-mediun")
    with pytest.raises(ValueError, match="no model preset 'zzz'; known: gpt2, gpt2-medium"):
        GPTConfig.preset("zzz")


def test_presets_can_be_changed_and_the_rules_still_hold():
    assert GPTConfig.preset("gpt2-xl", num_kv_heads=5).kv_heads == 5
    with pytest.raises(ValueError, match="num_heads=25 is not a multiple of num_kv_heads=4; use one of 1, 5, 25"):
        GPTConfig.preset("gpt2-xl", num_kv_heads=4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gpt2", (50257, 1024, 12, 12, 768)),
        ("gpt2-medium", (50257, 1024, 24, 16, 1024)),
        ("gpt2-large", (50257, 1024, 36, 20, 1280)),
        ("gpt2-xl", (50257, 1024, 48, 25, 1600)),
        ("shakespeare-char-cpu", (65, 64, 4, 4, 128)),
        ("shakespeare-char", (65, 256, 6, 6, 384)),
    ],
)
def test_presets_have_the_published_shapes(name, shape):
    c = GPTConfig.preset(name)
    assert (c.vocab_size, c.context_length, c.num_layers, c.num_heads, c.d_model) == shape


def test_derived_sizes():
    config = GPTConfig(num_layers=5, window=(3, None))
    assert config.windows == (3, None, 3, None, 3)
    assert (config.kv_heads, config.head_dim, config.mlp_width, config.padded_vocab_size) == (12, 64, 3072, 50304)
    assert GPTConfig(vocab_size=128).padded_vocab_size == 128
    assert GPTConfig(vocab_size=129, d_mlp=7, num_kv_heads=3).padded_vocab_size == 256


@pytest.mark.parametrize(
    ("change", "longest"),
    [
        ({}, 1024),
        ({"window": 8}, 1024),
        ({"position": "rotary"}, 1024),
        ({"position": "rotary", "window": (8, None)}, 1024),
        ({"position": "rotary", "window": (8, 16)}, None),
        ({"position": "none", "window": 8}, None),
    ],
    ids=str,
)
def test_the_longest_text(change, longest):
    config = GPTConfig(**change)
    assert config.max_length == longest
    config.check_length(1024)
    if longest is None:
        config.check_length(10**9)
    else:
        with pytest.raises(
            ValueError, match="1025 tokens are more than context_length=1024: .*; shorten the text, or use"
        ):
            config.check_length(1025)


def test_a_whole_number_in_a_field_of_reals_is_one():
    config = GPTConfig(layer_norm_epsilon=1, rope_theta=10_000)
    assert [type(value) for value in (config.layer_norm_epsilon, config.rope_theta)] == [float, float]
    assert config == GPTConfig(layer_norm_epsilon=1.0)
