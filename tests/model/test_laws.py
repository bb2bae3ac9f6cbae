"""What must hold of every variant."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.config import GPTConfig
from jaxgpt.inference.generate import generate
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, named_parameters
from tests import reference
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS, each_variant, forward, logits, loud, text


def changed_from(tokens, column, config):
    return np.concatenate([tokens[:, :column], (tokens[:, column:] + 1) % config.vocab_size], axis=1)


@each_variant
def test_the_future_cannot_change_the_past(config):
    after = forward(loud(config), changed_from(text(config), 17, config))
    np.testing.assert_array_equal(logits(config)[:, :17], after[:, :17])
    assert (np.abs(logits(config) - after)[:, 17:].max(axis=-1) > 0.1).all()


@each_variant
def test_the_model_is_its_float64_reference(config):
    expected = reference.gpt(config, named_parameters(loud(config)), text(config))
    np.testing.assert_allclose(logits(config), expected, atol=2e-4, rtol=0)
    assert expected.std() > 1


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "gelu"},
        {"activation": "relu"},
        {"activation": "silu"},
        {"position": "none"},
        {"bias": False},
        {"tie_embeddings": False},
        {"scale_attention_by_layer": True},
        {"position": "rotary", "rope_theta": 50.0},
        {"d_mlp": 40, "layer_norm_epsilon": 0.1},
    ],
    ids=str,
)
def test_each_choice_is_its_float64_reference(change):
    config = dataclasses.replace(BASELINE, **change)
    expected = reference.gpt(config, named_parameters(loud(config)), text(config))
    np.testing.assert_allclose(logits(config), expected, atol=2e-4, rtol=0)


@each_variant
def test_a_window_as_long_as_the_text_is_full_attention(config):
    full = logits(dataclasses.replace(config, window=None))
    np.testing.assert_array_equal(full, logits(dataclasses.replace(config, window=24)))
    assert np.abs(full - logits(dataclasses.replace(config, window=23))).max() > 1e-3


@each_variant
def test_banded_attention_changes_no_number(config):
    config = dataclasses.replace(config, window=(5, 7))
    xla, banded = (logits(dataclasses.replace(config, attention=name)) for name in ("xla", "banded"))
    np.testing.assert_allclose(xla, banded, atol=2e-5 * np.abs(xla).max(), rtol=0)


@each_variant
def test_as_many_key_value_heads_as_heads_is_plain_attention(config):
    plain = dataclasses.replace(config, num_kv_heads=None)
    np.testing.assert_array_equal(logits(plain), logits(dataclasses.replace(config, num_kv_heads=config.num_heads)))


@each_variant
def test_repeating_the_key_value_heads_changes_no_number(config):
    repeats = config.num_heads // config.kv_heads
    repeated = loud(dataclasses.replace(config, num_kv_heads=None))
    for target, source in zip(repeated.blocks, loud(config).blocks, strict=True):
        target.attn.query, target.attn.out = source.attn.query, source.attn.out
        for name in ("key", "value"):
            linear = getattr(source.attn, name)
            getattr(target.attn, name).kernel[...] = jnp.repeat(linear.kernel[...], repeats, axis=1)
            getattr(target.attn, name).bias[...] = jnp.repeat(linear.bias[...], repeats, axis=0)
    np.testing.assert_allclose(logits(config), forward(repeated, text(config)), atol=1e-4, rtol=0)


@each_variant
def test_scanning_the_layers_changes_no_number(config):
    config = dataclasses.replace(config, num_layers=5)
    scanned = logits(dataclasses.replace(config, scan_layers=True))
    np.testing.assert_allclose(logits(config), scanned, atol=1e-4, rtol=0)


def test_scanning_gives_the_same_dropout():
    config = dataclasses.replace(VARIANTS["all"], num_layers=5, dropout=0.3)
    plain, scanned = (
        quick(GPT.__call__)(
            loud(dataclasses.replace(config, scan_layers=scan)),
            jnp.asarray(text(config)),
            jax.random.split(jax.random.key(0), 2),
        )
        for scan in (False, True)
    )
    np.testing.assert_allclose(plain, scanned, atol=1e-4, rtol=0)


@each_variant
def test_bfloat16_stays_near_float32(config):
    narrow = logits(dataclasses.replace(config, dtype="bfloat16"))
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - logits(config)).mean() < 0.05 * logits(config).std()


# Where each field shows: the other fields it needs, a second value, and what becomes different.
EVERY_FIELD = {
    "vocab_size": ({}, 200, "parameters"),
    "context_length": ({}, 48, "parameters"),
    "num_layers": ({}, 3, "parameters"),
    "num_heads": ({}, 2, "parameters"),
    "num_kv_heads": ({}, 1, "parameters"),
    "d_model": ({}, 64, "parameters"),
    "d_mlp": ({}, 40, "parameters"),
    "position": ({}, "rotary", "parameters"),
    "rope_theta": ({"position": "rotary"}, 100.0, "output"),
    "window": ({}, 4, "output"),
    "activation": ({}, "gelu", "output"),
    "layer_norm_epsilon": ({}, 1e-2, "output"),
    "tie_embeddings": ({}, False, "parameters"),
    "bias": ({}, False, "parameters"),
    "scale_attention_by_layer": ({}, True, "output"),
    "dropout": ({}, 0.2, "output"),
    "dtype": ({}, "bfloat16", "output"),
    "attention": ({"window": 5, "attention": "xla"}, "banded", "program"),
    "scan_layers": ({}, True, "program"),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(GPTConfig)])
def test_every_field_changes_what_it_should(field):
    needs, value, shows = EVERY_FIELD[field]
    before = dataclasses.replace(BASELINE, **needs)
    after = dataclasses.replace(before, **{field: value})
    assert getattr(before, field) != value

    def shapes(config):
        return {name: leaf.shape for name, leaf in named_parameters(abstract_model(config)).items()}

    def program(config):
        return (
            jax.jit(lambda model, tokens: model(tokens, jax.random.split(jax.random.key(0), 2)))
            .trace(loud(config), text(config))
            .jaxpr
        )

    def output(config):
        return loud(config)(jnp.asarray(text(config)), jax.random.split(jax.random.key(0), 2))

    assert (shapes(before) != shapes(after)) == (shows == "parameters")
    if shows != "parameters":
        assert str(program(before)) != str(program(after))
    if shows == "output":
        assert np.abs(output(before) - output(after)).mean() > 1e-5


@st.composite
def configs(draw):
    kv_heads, groups, half = draw(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 3)))
    widths = st.one_of(st.none(), st.integers(1, 12))
    return GPTConfig(
        vocab_size=draw(st.integers(2, 140)),
        context_length=16,
        num_layers=draw(st.integers(1, 3)),
        num_heads=kv_heads * groups,
        num_kv_heads=kv_heads,
        d_model=kv_heads * groups * half * 2,
        d_mlp=draw(st.integers(1, 9)),
        position=draw(st.sampled_from(["learned", "rotary", "none"])),
        window=draw(st.one_of(widths, st.lists(widths, min_size=1, max_size=2).map(tuple))),
        activation=draw(st.sampled_from(["gelu_tanh", "gelu", "relu", "silu"])),
        tie_embeddings=draw(st.booleans()),
        bias=draw(st.booleans()),
        scale_attention_by_layer=draw(st.booleans()),
        scan_layers=draw(st.booleans()),
    )


@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(configs())
def test_any_valid_model_is_causal_and_generates_what_it_computes(config):
    model, tokens = loud(config), generate(loud(config), text(config, length=7), 9, temperature=0)
    run = jax.jit(lambda model, tokens: model(tokens))
    scores = np.asarray(run(model, tokens))
    assert scores.shape == (2, 16, config.vocab_size)
    np.testing.assert_array_equal(scores[:, :11], run(model, changed_from(tokens, 11, config))[:, :11])
    chosen = np.take_along_axis(scores[:, 6:-1], tokens[:, 7:, None], axis=-1)[..., 0]
    assert (chosen >= scores[:, 6:-1].max(axis=-1) - 1e-3).all()
