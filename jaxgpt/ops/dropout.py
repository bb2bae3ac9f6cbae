"""Dropout (Srivastava et al. 2014) with a key for each sequence, and such keys."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key, Shaped

DropoutKey = Key[Array, " B"] | None
"""A key for each sequence: its mask does not depend on the mesh, the microbatches or the other sequences of the batch.
None: no dropout."""


def dropout(x: Float[Array, "B ..."], rate: float, dropout_key: DropoutKey) -> Float[Array, "B ..."]:
    """Zero each element with probability `rate` and scale up the rest. Without a key, x as it is."""
    if dropout_key is None or rate == 0.0:
        return x
    mask = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(dropout_key)
    return jnp.where(mask, x / (1.0 - rate), jnp.zeros_like(x))


def key_per_row(key: Key[Array, "..."] | None, rows: int) -> DropoutKey:
    """A key for each row: the row's number folded into a single key; a key per row is returned as it is."""
    if key is None or key.ndim == 1:
        return key
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(rows))


def split_keys(dropout_key: DropoutKey, count: int) -> Shaped[Array, "C B"] | tuple[None, ...]:
    """`count` independent keys for each key."""
    if dropout_key is None:
        return (None,) * count
    return jax.vmap(partial(jax.random.split, num=count), out_axes=1)(dropout_key)


def fold_keys(dropout_key: DropoutKey, number: int | Array) -> DropoutKey:
    """The number, such as a layer's, folded into each key."""
    return None if dropout_key is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(dropout_key, number)
