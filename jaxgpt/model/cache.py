"""The key-value cache: an argument and a result of the model, never a state of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig


class LayerCache(NamedTuple):
    """The last S keys and values of one layer, column c of the text in slot c mod S.

    A layer with a window keeps W slots, a ring: the token that is overwritten has just left the window.
    """

    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]
    position: Int[Array, "B S"]
    """The position of the token in each slot; negative: the slot is empty or holds padding."""


class Cache(NamedTuple):
    """What the model remembers of the text so far."""

    layers: tuple[LayerCache, ...]
    length: Int[Array, ""]
    """How many columns, padding included, have been read."""


def empty_cache(config: GPTConfig, batch: int, capacity: int) -> Cache:
    """A cache for texts of up to `capacity` tokens. Raises ValueError where the model cannot read so many."""
    config.check_length(capacity)

    def layer(window: int | None) -> LayerCache:
        slots = capacity if window is None else min(window, capacity)
        shape = (batch, slots, config.kv_heads, config.head_dim)
        zeros = jnp.zeros(shape, config.dtype)
        return LayerCache(zeros, zeros, jnp.full((batch, slots), -1, jnp.int32))

    return Cache(tuple(layer(window) for window in config.windows), jnp.int32(0))


def write(
    cache: LayerCache,
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    column: Int[Array, ""],
) -> LayerCache:
    """Store T new tokens from `column` on; of more than S, the last S."""
    slots = cache.position.shape[1]
    new = LayerCache(k, v, positions)
    if k.shape[1] == 1:  # decoding: one slot, in place
        start = column % slots
        return LayerCache(
            *(jax.lax.dynamic_update_slice_in_dim(old, one, start, axis=1) for old, one in zip(cache, new, strict=True))
        )
    kept = min(k.shape[1], slots)
    where = (column + k.shape[1] - kept + jnp.arange(kept)) % slots
    return LayerCache(*(old.at[:, where].set(many[:, -kept:]) for old, many in zip(cache, new, strict=True)))
