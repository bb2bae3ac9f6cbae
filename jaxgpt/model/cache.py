"""The key-value cache: an argument and a result of the model, never a state of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig


class LayerCache(NamedTuple):
    """The last S keys and values of one layer: the token at position p of its text is in slot p mod S.

    A layer with a window keeps W slots, a ring: the token that is overwritten has just left the window. So what a query
    at position p may see are the first p + 1 slots, or all of them.
    """

    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]


class Cache(NamedTuple):
    """What the model remembers of the texts so far."""

    layers: tuple[LayerCache, ...]
    length: Int[Array, " B"]
    """How many tokens of each text have been read: the position of its next one."""


def slots(config: GPTConfig, capacity: int) -> tuple[int, ...]:
    """How many tokens each layer keeps of texts of up to `capacity`. Raises ValueError where they are too long."""
    config.check_length(capacity)
    return tuple(capacity if window is None else min(window, capacity) for window in config.windows)


def cache_from_prefill(
    k: Float[Array, "B T K H"], v: Float[Array, "B T K H"], length: Int[Array, " B"], slots: int
) -> LayerCache:
    """The newest tokens of texts that end after `length`. What follows there is padding, and is not kept."""
    last = length[:, None] - 1
    newest = last - (last - jnp.arange(slots)[None]) % slots  # in each slot; below 0: none yet, and none will look
    rows = jnp.maximum(newest, 0)[:, :, None, None]
    return LayerCache(*(jnp.take_along_axis(x, rows, axis=1) for x in (k, v)))


def write(
    cache: LayerCache, k: Float[Array, "B K H"], v: Float[Array, "B K H"], position: Int[Array, " B"]
) -> LayerCache:
    """Store one token more of each text, in place."""
    rows, slot = jnp.arange(k.shape[0]), position % cache.key.shape[1]

    def put(old: Array, new: Array) -> Array:
        if len(rows) == 1:  # as a scatter, XLA would check its bounds in a kernel of its own
            return jax.lax.dynamic_update_slice_in_dim(old, new[:, None], slot[0], axis=1)
        return old.at[rows, slot].set(new, unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds")

    return LayerCache(put(cache.key, k), put(cache.value, v))
