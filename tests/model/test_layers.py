import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.layers import LayerNorm
from jaxgpt.ops.attention import BACKENDS
from jaxgpt.ops.dropout import dropout
from tests.variants import BASELINE, loud, text


def keys(seed: int) -> jax.Array:
    """For two sequences."""
    return jax.random.split(jax.random.key(seed), 2)


def test_no_key_or_no_rate_no_dropout():
    x = jnp.ones((2, 6))
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, keys(0)) is x


def test_dropout_preserves_the_expectation():
    dropped = np.asarray(dropout(jnp.full((2, 50_000), 2.0), 0.25, keys(0)))
    assert set(np.unique(dropped)) == {0.0, np.float32(2 / 0.75)}
    assert abs((dropped == 0).mean() - 0.25) < 0.006
    assert abs(dropped.mean() - 2) < 0.02


def test_the_same_key_drops_the_same():
    x = jnp.ones((2, 1000))
    first, again, other = (dropout(x, 0.5, keys(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert 800 < (first != other).sum() < 1200
    assert 400 < (first[0] != first[1]).sum() < 600
    np.testing.assert_array_equal(dropout(x[1:], 0.5, keys(0)[1:]), first[1:])  # whatever else is in the batch


@pytest.mark.parametrize("name", ["xla", "blocked", "banded"])
def test_attention_weights_are_dropped_and_keep_their_expectation(name):
    q = jnp.zeros((1, 8, 1, 4))
    v = jnp.ones((1, 8, 1, 4))
    run = jax.jit(lambda key: BACKENDS[name](q, q, v, window=8, scale=1.0, dropout_rate=0.5, dropout_key=key[None]))
    out = jax.vmap(run)(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(out.mean(axis=0), 1, atol=0.12)
    assert set(np.unique(out[:, 0, 0])) == {0.0, 2.0}  # one key, kept or not


def test_a_model_without_a_key_drops_nothing():
    config = BASELINE.__class__.preset("tiny", dropout=0.5)
    model, still, tokens = loud(config), loud(BASELINE.__class__.preset("tiny")), jnp.asarray(text(config))
    np.testing.assert_array_equal(model(tokens), still(tokens))
    first, again, other = (model(tokens, keys(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.1
    assert np.abs(first - model(tokens)).mean() > 0.1
    np.testing.assert_array_equal(still(tokens, keys(0)), still(tokens))


def test_layer_norm_of_large_numbers_and_bfloat16():
    norm = LayerNorm(64, epsilon=1e-5, bias=True)
    x = np.random.default_rng(0).normal(size=(3, 5, 64)) + 1000
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, atol=1e-3)
    assert norm(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
