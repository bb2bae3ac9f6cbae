"""Decoding with weights of fewer bits, beside a product in float64 and the same model with the rounded weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.inference.generate import begin
from jaxgpt.inference.settings import Settings
from jaxgpt.inference.weights import cast_for_inference, cast_once, quantize
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Linear
from jaxgpt.ops.platform import compiling_for
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS, loud, text

NARROW = dataclasses.replace(VARIANTS["all"], dtype="bfloat16")
WIDE = VARIANTS["all"]


def widened(model):
    """The model in float32 whose weights are those that a cast one reads."""

    def wide(part):
        if not isinstance(part, Linear):
            return part
        whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), part)
        if whole.scale is not None:
            scale, whole.scale = whole.scale[...], None
            whole.kernel[...] = whole.kernel[...] * scale.reshape((1,) * part.num_inputs + scale.shape)
        return whole

    head = model.output_table.astype(jnp.float32)
    whole = jax.tree.map(wide, model, is_leaf=lambda part: isinstance(part, Linear))
    whole.head = type(model.embed)(head)
    return whole


def test_weights_for_decoding_change_no_number():
    tokens, lengths = jnp.asarray(text(NARROW)), jnp.array([24, 20])
    plain, narrow = (
        quick(GPT.prefill, static_argnums=3)(model, tokens, lengths, 24)[0]
        for model in (loud(NARROW), cast_for_inference(loud(NARROW)))
    )
    np.testing.assert_allclose(narrow, plain, rtol=1e-5, atol=1e-4)


def test_weights_for_decoding_are_cast_once_and_the_model_stays():
    model = loud(NARROW)
    narrow = cast_for_inference(model)
    assert narrow.blocks[0].mlp.up.kernel.dtype == narrow.head.kernel.dtype == jnp.bfloat16
    assert narrow.embed.dtype == narrow.blocks[0].mlp_norm.scale.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    assert model.head is None
    assert cast_once(narrow) is narrow


def test_in_float32_there_is_nothing_to_do():
    model = loud(BASELINE)
    assert cast_once(model) is model


@pytest.mark.parametrize("weights", [pytest.param("bf16", marks=pytest.mark.slow), "int8"])
def test_a_token_of_one_text_is_computed_with_the_rounded_weights_alone(weights):
    """One row's activations and sums stay in float32: only the weights are rounded."""
    model = cast_for_inference(loud(WIDE), weights)
    exact = widened(model)
    read, decode = quick(GPT.prefill, static_argnums=3), quick(GPT.decode_step)
    _, cache = read(exact, jnp.asarray(text(WIDE))[:1], jnp.array([24]), 32)
    ours, expected = (decode(one, jnp.array([5]), cache)[0] for one in (model, exact))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))
    assert float(jnp.abs(expected - decode(loud(WIDE), jnp.array([5]), cache)[0]).max()) > 1e-3


@pytest.mark.parametrize(("weights", "apart"), [("bf16", 0.03), ("int8", 0.06)])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_prompts_are_read_with_weights_of_fewer_bits(weights, apart, platform):
    tokens, lengths = jnp.asarray(text(WIDE)), jnp.array([24, 20])
    with compiling_for(platform):
        ours = cast_for_inference(loud(WIDE), weights).prefill(tokens, lengths, 24)[0]
    expected = loud(WIDE).prefill(tokens, lengths, 24)[0]
    assert 0 < float(jnp.abs(ours - expected).max()) < apart * float(expected.std()) * 4


def test_int8_weights_are_the_nearest_and_each_output_uses_the_whole_range():
    kernel = np.random.default_rng(0).normal(size=(40, 6)) * 10.0 ** np.arange(-3, 3)
    numbers, scale = quantize(jnp.asarray(kernel, jnp.float32))
    assert numbers.dtype == jnp.int8
    np.testing.assert_array_equal(np.abs(numbers).max(axis=0), 127)
    assert (np.abs(np.asarray(numbers, np.float64) * np.asarray(scale) - kernel) <= 0.501 * np.asarray(scale)).all()


def test_fused_decoding_refuses_other_weights():
    with pytest.raises(UserError, match="fused decoding reads the model's own weights"):
        begin(loud(WIDE), [np.array([1])], 1, Settings(), fused=True, weights="int8")
