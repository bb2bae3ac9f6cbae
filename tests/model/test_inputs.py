import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.model.loss import next_token_loss
from tests.variants import BASELINE, loud, text


@pytest.fixture(autouse=True)
def without_shape_checks(monkeypatch):
    """As a user has it."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)


@pytest.mark.parametrize(
    ("tokens", "key", "message"),
    [
        (np.arange(5), None, r"tokens must be \[batch, length\], not of shape \[5\]; a single text is tokens\[None\]"),
        (np.zeros((1, 2, 3), int), None, r"not of shape \[1, 2, 3\]"),
        ([[1, 2]], None, "an array of token ids .*, not a list; use jnp.asarray"),
        (np.ones((1, 4)), None, "whole numbers, not float64; encode the text first"),
        (np.array([[1, 61]]), None, "token 61 is not in the vocabulary of 61; is it another model's tokenizer"),
        (jnp.array([[1, -2]]), None, "token -2 is not in the vocabulary"),
        (np.zeros((1, 33), int), None, "33 tokens are more than context_length=32"),
        (np.zeros((2, 4), int), jax.random.split(jax.random.key(0), 3), r"shape \[3\]: give one key, or one for each"),
        (np.zeros((2, 4), int), 0, r"made by jax.random.key\(seed\), not int"),
        (np.zeros((2, 4), int), jax.random.PRNGKey(0), r"made by jax.random.key\(seed\)"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_sentence(tokens, key, message):
    with pytest.raises(ValueError, match=message):
        loud(BASELINE)(tokens, key)


def test_a_loss_of_one_text_without_a_batch_is_refused():
    with pytest.raises(UserError, match=r"tokens must be \[batch, length\]"):
        next_token_loss(loud(BASELINE), np.arange(5))


def test_ids_are_not_looked_at_under_jit():
    assert jax.eval_shape(loud(BASELINE), jnp.array([[99]])).shape == (1, 1, 61)


def test_one_key_is_a_key_for_each_row():
    config = dataclasses.replace(BASELINE, dropout=0.5)
    tokens, key = jnp.asarray(np.tile(text(config)[:1], (2, 1))), jax.random.key(1)
    one = loud(config)(tokens, key)
    each = loud(config)(tokens, jnp.stack([jax.random.fold_in(key, row) for row in range(2)]))
    np.testing.assert_array_equal(one, each)
    assert np.abs(one[0] - one[1]).max() > 0.1


def test_a_full_cache_is_refused_where_its_lengths_are_known():
    model, tokens = loud(dataclasses.replace(BASELINE, window=(5, None))), jnp.asarray(text(BASELINE))
    _, cache = model.prefill(tokens[:, :7], jnp.array([7, 3]), capacity=8)
    _, cache = model.decode_step(tokens[:, 7], cache)
    with pytest.raises(UserError, match="the cache is full: its capacity is 8 tokens and the longest text has 8"):
        model.decode_step(tokens[:, 8], cache)
    ring = loud(dataclasses.replace(BASELINE, position="rotary", window=5))
    _, cache = ring.prefill(tokens[:, :7], jnp.array([7, 3]), capacity=8)
    for column in range(7, 10):
        _, cache = ring.decode_step(tokens[:, column], cache)
