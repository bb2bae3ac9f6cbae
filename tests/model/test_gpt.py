import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from jaxgpt.config import MODELS, GPTConfig
from jaxgpt.model.blocks import smallest_period
from jaxgpt.model.gpt import GPT
from jaxgpt.model.init import PRNGSequence
from jaxgpt.model.parameters import abstract_model, named_parameters, num_parameters
from tests.variants import BASELINE, forward, loud, text

PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "quickstart": 1_055_488,
    "shakespeare-char-cpu": 809_856,
    "shakespeare-char": 10_770_816,
    "tiny": 29_600,
}


def count(config):
    return num_parameters(abstract_model(config))


def test_equal_blocks_are_written_once():
    def products(layers):
        config = dataclasses.replace(BASELINE, num_layers=layers)
        return (
            jax.jit(GPT.__call__).lower(abstract_model(config), text(config)).as_text().count("stablehlo.dot_general")
        )

    assert products(5) == products(1)


def test_a_second_call_compiles_nothing_even_operation_by_operation():
    compiled = []
    forward(loud(BASELINE), text(BASELINE))
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: compiled.append(name))
    try:
        forward(loud(BASELINE), text(BASELINE))
        assert not [name for name in compiled if "compile" in name]
        jax.jit(lambda x: x + 1)(1)
        assert [name for name in compiled if "compile" in name]
    finally:
        jax.monitoring.clear_event_listeners()


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_the_published_ones(name):
    assert count(GPTConfig.preset(name)) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"position": "rotary"}, -786_432),
        ({"num_kv_heads": 4}, -9_449_472),
        ({"window": 256}, 0),
        ({"position": "rotary", "num_kv_heads": 4, "window": 256}, -786_432 - 9_449_472),
        ({"tie_embeddings": False}, 50257 * 768),
    ],
    ids=str,
)
def test_what_a_switch_costs(change, difference):
    assert count(GPTConfig.preset("gpt2", **change)) - count(GPTConfig.preset("gpt2")) == difference


def test_parameters_are_words():
    parameters = named_parameters(abstract_model(dataclasses.replace(BASELINE, num_layers=1, num_kv_heads=2)))
    assert {name: leaf.shape for name, leaf in parameters.items()} == {
        "embed": (128, 32),
        "position": (32, 32),
        "blocks.0.attn_norm.scale": (32,),
        "blocks.0.attn_norm.bias": (32,),
        "blocks.0.attn.query.kernel": (32, 4, 8),
        "blocks.0.attn.query.bias": (4, 8),
        "blocks.0.attn.key.kernel": (32, 2, 8),
        "blocks.0.attn.key.bias": (2, 8),
        "blocks.0.attn.value.kernel": (32, 2, 8),
        "blocks.0.attn.value.bias": (2, 8),
        "blocks.0.attn.out.kernel": (4, 8, 32),
        "blocks.0.attn.out.bias": (32,),
        "blocks.0.mlp_norm.scale": (32,),
        "blocks.0.mlp_norm.bias": (32,),
        "blocks.0.mlp.up.kernel": (32, 128),
        "blocks.0.mlp.up.bias": (128,),
        "blocks.0.mlp.down.kernel": (128, 32),
        "blocks.0.mlp.down.bias": (32,),
        "norm.scale": (32,),
        "norm.bias": (32,),
    }


def test_initialisation_is_gpt2s():
    config = dataclasses.replace(BASELINE, vocab_size=200, num_layers=3, d_model=64, tie_embeddings=False)
    parameters = named_parameters(GPT(config, rngs=nnx.Rngs(0)))
    residual = 0.02 / np.sqrt(2 * 3)
    for name, value in parameters.items():
        value = np.asarray(value)
        if name in ("embed", "head"):
            np.testing.assert_array_equal(value[200:], 0)
            value = value[:200]
        if name.endswith(("bias", "scale")):
            np.testing.assert_array_equal(value, float(name.endswith("scale")))
            continue
        stddev = 0.01 if name == "position" else residual if "out" in name or "down" in name else 0.02
        assert abs(value.std() / stddev - 1) < 0.05, name
        assert abs(value.mean()) < 4 * stddev / value.size**0.5, name
    kernels = [np.asarray(value).ravel()[:9] for name, value in parameters.items() if name.endswith("kernel")]
    assert len(np.unique(np.stack(kernels), axis=0)) == len(kernels)  # no two are the same draw


def test_the_seed_decides_the_parameters():
    config = dataclasses.replace(BASELINE, vocab_size=200, num_layers=1, d_model=64)
    first, again, other = (GPT(config, rngs=nnx.Rngs(seed)) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.embed[...] != other.embed[...])[:200].all()


def test_a_model_draws_the_keys_that_nnx_would_give_and_the_stream_goes_on_after_them():
    ours, theirs = nnx.Rngs(params=3), nnx.Rngs(params=3)
    for _ in range(2):
        draws = PRNGSequence(ours)
        for _ in range(3):
            assert draws.params() == theirs.params()
        draws.end()
    one, other = (GPT(BASELINE, rngs=ours) for _ in range(2))
    assert (one.embed[...] != other.embed[...])[: BASELINE.vocab_size].all()


def test_a_model_is_parameters_and_nothing_else():
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(GPT(BASELINE, rngs=nnx.Rngs(0))))
    assert set(map(type, jax.tree.leaves(nnx.to_pure_dict(nnx.state(loud(BASELINE)))))) == {type(jax.numpy.ones(1))}


def test_a_text_too_long_is_an_error_not_a_clamped_position():
    with pytest.raises(ValueError, match="33 tokens are more than context_length=32: position='learned' knows 32"):
        forward(loud(BASELINE), text(BASELINE, length=33))


def test_the_padding_of_the_table_is_never_seen():
    model = loud(BASELINE)
    before = forward(model, text(BASELINE))
    model.embed[...] = model.embed[...].at[BASELINE.vocab_size :].set(1e6)
    assert before.shape[-1] == BASELINE.vocab_size
    np.testing.assert_array_equal(before, forward(model, text(BASELINE)))


def test_smallest_period():
    assert [smallest_period(list(word)) for word in ("a", "aaa", "ababa", "abc", "aab")] == [1, 1, 2, 3, 3]
