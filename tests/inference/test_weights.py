import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import GPTConfig
from jaxgpt.inference.decode import decode_step
from jaxgpt.inference.weights import cast_for_inference
from jaxgpt.model.gpt import GPT
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS, loud, text

NARROW = dataclasses.replace(VARIANTS["all"], dtype="bfloat16")


def test_weights_for_decoding_change_no_number():
    tokens, lengths = jnp.asarray(text(NARROW)), jnp.array([24, 20])
    plain, narrow = (
        quick(GPT.prefill, static_argnums=3)(model, tokens, lengths, 24)[0]
        for model in (loud(NARROW), cast_for_inference(loud(NARROW)))
    )
    np.testing.assert_array_equal(narrow, plain)


def test_weights_for_decoding_are_cast_once_and_the_model_stays():
    model = loud(NARROW)
    narrow = cast_for_inference(model)
    assert narrow.blocks[0].mlp.up.kernel.dtype == narrow.output_table.dtype == jnp.bfloat16
    assert narrow.embed.dtype == narrow.blocks[0].mlp_norm.scale.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    assert model.head is None


def test_in_float32_there_is_nothing_to_do():
    model = loud(BASELINE)
    assert cast_for_inference(model) is model


def test_one_text_in_bfloat16_is_decoded_beside_an_idle_row():
    config = GPTConfig.preset("tiny", dtype="bfloat16")
    model = cast_for_inference(loud(config))
    _, cache = model.prefill(jnp.ones((1, 3), int), jnp.array([3]), capacity=8)
    padded, after = decode_step(model, jnp.array([5]), cache)
    plain, expected = model.decode_step(jnp.array([5]), cache)
    assert padded.shape == (1, 97)
    np.testing.assert_allclose(padded, plain, atol=0.05 * float(np.abs(plain).max()))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, expected)
    program = jax.make_jaxpr(decode_step)(model, jnp.array([5]), cache)
    assert "bf16[2,32]" in str(program)  # both rows go through the products
