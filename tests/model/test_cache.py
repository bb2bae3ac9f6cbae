import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention import compiling_for
from jaxgpt.model.cache import empty_cache, with_all_positions, write
from jaxgpt.model.gpt import GPT
from tests.variants import BASELINE, VARIANTS, each_variant, logits, loud, text

extend = jax.jit(GPT.extend)
WINDOWED = dataclasses.replace(BASELINE, window=(5, None), num_kv_heads=2)


def test_a_ring_has_as_many_slots_as_its_window():
    ring, full = empty_cache(WINDOWED, batch=3, capacity=20).layers
    assert ring.key.shape == ring.value.shape == (3, 5, 2, 8)
    assert full.key.shape == (3, 20, 2, 8)
    assert empty_cache(WINDOWED, batch=3, capacity=4).layers[0].position.shape == (3, 4)
    assert empty_cache(dataclasses.replace(WINDOWED, dtype="bfloat16"), 1, 4).layers[0].key.dtype == jnp.bfloat16


@pytest.mark.parametrize("prompt", [2, 4, 5, 6, 13])
def test_a_ring_holds_the_last_tokens(prompt):
    ring = empty_cache(WINDOWED, batch=1, capacity=30).layers[0]
    column = 0
    for length in [prompt, 1, 1, 1, 1, 1, 1]:
        positions = column + jnp.arange(length)[None]
        k = jnp.broadcast_to(positions[..., None, None].astype(jnp.float32), (1, length, 2, 8))
        ring, column = write(ring, k, -k, positions, jnp.int32(column)), column + length
        held = sorted(position for position in np.asarray(ring.position)[0].tolist() if position >= 0)
        assert held == list(range(max(0, column - 5), column))
        filled = np.asarray(ring.position)[0] >= 0
        np.testing.assert_array_equal(ring.key[0, filled, 0, 0], ring.position[0, filled])
        np.testing.assert_array_equal(ring.value[0, filled, 1, 7], -ring.position[0, filled])


@each_variant
@pytest.mark.parametrize("prompt", [1, 13])
def test_reading_on_from_a_cache_gives_the_logits_of_the_whole_text(config, prompt):
    tokens = jnp.asarray(text(config))
    positions = jnp.broadcast_to(jnp.arange(24)[None], tokens.shape)
    cache, start = empty_cache(config, 2, 24), 0
    for stop in [prompt, *range(prompt + 1, prompt + 9)]:
        step, cache = extend(loud(config), tokens[:, start:stop], positions[:, start:stop], cache)
        np.testing.assert_allclose(step, logits(config)[:, stop - 1], atol=2e-4, rtol=0)
        start = stop


def test_idle_rows_on_a_gpu_change_no_number():
    config = VARIANTS["all"]
    tokens, positions = jnp.asarray(text(config))[:1], jnp.arange(24)[None]
    _, cache = extend(loud(config), tokens[:, :13], positions[:, :13], empty_cache(config, 1, 24))
    with compiling_for("cuda"):
        idle = jax.jit(lambda *given: GPT.extend(*given)).lower(loud(config), tokens[:, :1], positions[:, :1], cache)
    idle = idle.compile()
    for column in range(13, 20):
        step, cache = idle(loud(config), tokens[:, column, None], positions[:, column, None], cache)
        assert step.shape == (1, config.vocab_size)
        np.testing.assert_allclose(step, logits(config)[:1, column], atol=2e-4, rtol=0)


def test_positions_are_held_once_for_each_number_of_slots():
    config = dataclasses.replace(BASELINE, num_layers=5, window=(5, None))
    held = [layer.position.shape[1] for layer in empty_cache(config, 2, 24).layers]
    assert held == [5, 24, 0, 0, 0]
    spread = with_all_positions(empty_cache(config, 2, 24))
    assert [layer.position.shape[1] for layer in spread.layers] == [5, 24, 5, 24, 5]


def test_a_cache_longer_than_the_model_can_read_is_refused():
    with pytest.raises(ValueError, match="33 tokens are more than context_length=32"):
        empty_cache(VARIANTS["all"], 1, 33)
    assert jax.tree.leaves(empty_cache(dataclasses.replace(VARIANTS["all"], window=5), 1, 10**6))[0].shape[1] == 5
