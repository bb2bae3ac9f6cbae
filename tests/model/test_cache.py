import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inference.decode import decode_step as padded_decode_step
from jaxgpt.model.cache import LayerCache, cache_from_prefill, cache_lengths, write
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.attention import BACKENDS
from jaxgpt.ops.platform import compiling_for
from tests.variants import BASELINE, VARIANTS, each_variant, logits, loud, text

WINDOWED = dataclasses.replace(BASELINE, window=(5, None), num_kv_heads=2)
decode_step = jax.jit(GPT.decode_step)
prefill = jax.jit(GPT.prefill, static_argnames="capacity")


def test_a_ring_has_as_many_slots_as_its_window():
    assert cache_lengths(WINDOWED, 20) == (5, 20)
    assert cache_lengths(WINDOWED, 4) == (4, 4)


def test_a_cache_holds_key_value_heads_in_the_type_that_is_computed_in():
    config = dataclasses.replace(WINDOWED, dtype="bfloat16")
    _, cache = jax.eval_shape(lambda: GPT.prefill(loud(config), jnp.zeros((3, 2), int), jnp.full(3, 2), capacity=20))
    assert [layer.key.shape for layer in cache.layers] == [(3, 5, 2, 8), (3, 20, 2, 8)]
    assert {leaf.dtype for layer in cache.layers for leaf in layer} == {jnp.dtype("bfloat16")}


def named(positions):
    """Keys, and values, that say where they are from."""
    k = jnp.broadcast_to(jnp.asarray(positions, jnp.float32)[..., None, None], (*np.shape(positions), 2, 8))
    return k, -k


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("prompt", [1, 2, 4, 5, 6, 13])
def test_a_ring_holds_the_last_tokens_of_each_text(prompt, rows):
    """Of texts of different lengths, filled up on the right by what must not be kept."""
    lengths = jnp.arange(prompt, prompt + rows)
    width = prompt + rows + 2
    text = np.where(np.arange(width) < np.asarray(lengths)[:, None], np.arange(width), 99)
    ring = cache_from_prefill(LayerCache(*named(text)), lengths, slots=5)
    for _ in range(8):
        for row, length in enumerate(lengths.tolist()):
            newest = range(max(0, length - 5), length)
            filled = np.asarray(ring.key[row, : min(length, 5), 0, 0])
            assert filled.tolist() == sorted(newest, key=lambda position: position % 5)
            np.testing.assert_array_equal(ring.value[row, : min(length, 5), 1, 7], -filled)
        k, v = named(lengths[:, None])
        ring, lengths = write(ring, k[:, 0], v[:, 0], lengths), lengths + 1


@each_variant
@pytest.mark.parametrize("prompt", [1, 13])
def test_reading_on_from_a_cache_gives_the_logits_of_the_whole_text(config, prompt):
    """Also where another text in the batch is shorter."""
    tokens, lengths = jnp.asarray(text(config)), jnp.array([prompt, (prompt + 1) // 2])
    step, cache = prefill(loud(config), tokens[:, : prompt + 2], lengths, capacity=24)
    for _ in range(9):
        expected = logits(config)[np.arange(2), lengths - 1]
        np.testing.assert_allclose(step, expected, atol=2e-4, rtol=0)
        np.testing.assert_array_equal(cache.length, lengths)
        step, cache = decode_step(loud(config), tokens[np.arange(2), lengths], cache)
        lengths = lengths + 1


def test_idle_rows_on_a_gpu_change_no_number():
    config = VARIANTS["all"]
    tokens = jnp.asarray(text(config))[:1]
    _, cache = prefill(loud(config), tokens[:, :13], jnp.array([13]), capacity=24)
    with compiling_for("cuda"):
        idle = jax.jit(lambda *given: padded_decode_step(*given)).lower(loud(config), tokens[:, 0], cache).compile()
    for column in range(13, 20):
        step, cache = idle(loud(config), tokens[:, column], cache)
        assert step.shape == (1, config.vocab_size)
        np.testing.assert_allclose(step, logits(config)[:1, column], atol=2e-4, rtol=0)


def test_a_prompt_is_read_by_the_attention_that_training_uses(monkeypatch):
    asked = []
    monkeypatch.setitem(BACKENDS, "banded", lambda q, k, v, **_: asked.append(q.shape) or q)
    config = dataclasses.replace(BASELINE, window=3, attention="banded")
    jax.eval_shape(lambda: GPT.prefill(loud(config), jnp.zeros((1, 9), int), jnp.array([9]), capacity=20))
    assert asked == [(1, 9, 4, 8)] * 2


def test_a_cache_longer_than_the_model_can_read_is_refused():
    with pytest.raises(ValueError, match="33 tokens are more than context_length=32"):
        cache_lengths(VARIANTS["all"], 33)
    assert cache_lengths(dataclasses.replace(VARIANTS["all"], window=5), 10**6) == (5, 5)


def test_what_is_written_takes_the_type_of_the_cache():
    cache = LayerCache(*(jnp.zeros((4, 3, 1, 2), jnp.bfloat16) for _ in range(2)))
    new = jnp.full((4, 1, 2), 1.5, jnp.float32)
    written = write(cache, new, new, jnp.array([0, 1, 2, 3]))
    assert {leaf.dtype for leaf in written} == {jnp.dtype("bfloat16")}
    assert [float(written.key[row, row % 3, 0, 0]) for row in range(4)] == [1.5] * 4
