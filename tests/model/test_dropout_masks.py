"""No two places of a model share a dropout mask."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.model import gpt as gpt_module
from jaxgpt.ops.attention.backends import banded
from jaxgpt.ops.dropout import dropout
from tests.variants import BASELINE, loud, text

KEYS = jax.random.split(jax.random.key(0), 2)
CONFIG = dataclasses.replace(BASELINE, num_layers=3, dropout=0.5)


def test_embedding_attention_and_mlp_of_each_layer_have_masks_of_their_own(monkeypatch):
    """Where x is dropped is seen by what is zero; equal shapes, so equal keys would give equal masks."""
    masks = []

    def record(x, rate, key):
        dropped = dropout(jnp.ones_like(x), rate, key)
        jax.debug.callback(lambda mask: masks.append(np.asarray(mask) == 0), dropped)
        return dropout(x, rate, key)

    monkeypatch.setattr(gpt_module, "dropout", record)
    loud(CONFIG)(jnp.asarray(text(CONFIG)), KEYS)
    jax.effects_barrier()
    assert len(masks) == 1 + 2 * CONFIG.num_layers
    assert all(0.3 < mask.mean() < 0.7 for mask in masks)
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < (one == other).mean() < 0.6


def test_attention_weights_of_each_layer_are_dropped_by_a_key_of_their_own(monkeypatch):
    keys = []

    def record(q, k, v, window, scale, backend, rate, key, doc_starts):
        keys.append(np.asarray(jax.random.key_data(key)).tolist())
        return q

    monkeypatch.setattr(gpt_module, "causal_attention", record)
    loud(CONFIG)(jnp.asarray(text(CONFIG)), KEYS)
    assert len({str(key) for key in keys}) == len(keys) == CONFIG.num_layers


def test_blocks_of_banded_attention_are_dropped_differently():
    """Queries that are all alike attend to equal keys: where two blocks differ, their masks do."""
    q, v = jnp.zeros((1, 32, 1, 4)), jnp.ones((1, 32, 1, 4))
    y = banded(q, q, v, window=8, scale=1.0, dropout_rate=0.5, dropout_key=KEYS[:1])[0, :, 0, 0].reshape(4, 8)
    assert len(np.unique(np.asarray(y)[1:], axis=0)) == 3
