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
    """The position of the token in each slot; negative: the slot is empty or holds padding. [B, 0] where an earlier
    layer has as many slots and so the same positions (on a GPU, a kernel less for each layer and token)."""


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

    return sharing_positions(Cache(tuple(layer(window) for window in config.windows), jnp.int32(0)))


def sharing_positions(cache: Cache) -> Cache:
    """Layers with equally many slots hold the same positions: only the first of them keeps them."""
    seen: set[int] = set()
    layers = []
    for layer in cache.layers:
        slots = layer.key.shape[1]
        layers.append(layer._replace(position=layer.position[:, :0]) if slots in seen else layer)
        seen.add(slots)
    return Cache(tuple(layers), cache.length)


def with_all_positions(cache: Cache) -> Cache:
    """The same cache with the positions in every layer."""
    held = {layer.key.shape[1]: layer.position for layer in cache.layers if layer.position.size}
    return Cache(tuple(layer._replace(position=held[layer.key.shape[1]]) for layer in cache.layers), cache.length)


def write(
    cache: LayerCache,
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    positions: Int[Array, "B T"],
    column: Int[Array, ""],
) -> LayerCache:
    """Store T new tokens from `column` on; of more than S, the last S."""
    slots = cache.key.shape[1]
    new = LayerCache(k, v, positions)
    if k.shape[1] == 1:  # decoding: one slot, in place
        start = column % slots
        return LayerCache(
            *(jax.lax.dynamic_update_slice_in_dim(old, one, start, axis=1) for old, one in zip(cache, new, strict=True))
        )
    kept = min(k.shape[1], slots)
    where = (column + k.shape[1] - kept + jnp.arange(kept)) % slots
    return LayerCache(*(old.at[:, where].set(many[:, -kept:]) for old, many in zip(cache, new, strict=True)))
