import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.inference.weights import for_decoding
from jaxgpt.model.cache import empty_cache
from jaxgpt.model.gpt import GPT
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS, loud, text

NARROW = dataclasses.replace(VARIANTS["all"], dtype="bfloat16")


def test_weights_for_decoding_change_no_number():
    tokens = jnp.asarray(text(NARROW))
    positions = jnp.broadcast_to(jnp.arange(24)[None], tokens.shape)
    empty = empty_cache(NARROW, 2, 24)
    plain, _ = quick(GPT.extend)(loud(NARROW), tokens, positions, empty)
    narrow, _ = quick(GPT.extend)(for_decoding(loud(NARROW)), tokens, positions, empty)
    np.testing.assert_array_equal(narrow, plain)


def test_weights_for_decoding_are_cast_once_and_the_model_stays():
    model = loud(NARROW)
    narrow = for_decoding(model)
    assert narrow.blocks[0].mlp.up.kernel.dtype == narrow.output_table.dtype == jnp.bfloat16
    assert narrow.embed.dtype == narrow.blocks[0].mlp_norm.scale.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    assert model.head is None


def test_in_float32_there_is_nothing_to_do():
    model = loud(BASELINE)
    assert for_decoding(model) is model
