"""The key-value cache: an argument and a result of the model, never a state of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.ops.cache_update import update_slots


class LayerCache(NamedTuple):
    """Keys and values of the last S tokens of each text, of one layer: position p is in slot p mod S.

    A layer with a window has W slots, a ring buffer: the token that is overwritten has just left the window. So a query
    at position p attends to the first p + 1 slots, or to all of them.
    """

    key: Float[Array, "B S K H"]
    value: Float[Array, "B S K H"]


class Cache(NamedTuple):
    """Keys and values of the texts so far, of all layers."""

    layers: tuple[LayerCache, ...]
    length: Int[Array, " B"]
    """Tokens of each text so far: the position of its next one."""


def cache_lengths(config: GPTConfig, capacity: int) -> tuple[int, ...]:
    """Slots of each layer for texts of up to `capacity` tokens. Raises UserError where the model reads fewer."""
    config.check_length(capacity)
    return tuple(capacity if window is None else min(window, capacity) for window in config.windows)


def cache_from_prefill(computed: LayerCache, length: Int[Array, " B"], slots: int) -> LayerCache:
    """The newest tokens of texts that end after `length` tokens; what follows there is padding, and is dropped."""
    last = length[:, None] - 1
    position = last - (last - jnp.arange(slots)[None]) % slots  # of each slot; below 0: empty, and masked later
    rows = jnp.maximum(position, 0)[:, :, None, None]
    return LayerCache(*(jnp.take_along_axis(x, rows, axis=1) for x in computed))


def write(
    cache: LayerCache, k: Float[Array, "R K H"], v: Float[Array, "R K H"], position: Int[Array, " R"]
) -> LayerCache:
    """Store one more token of each text, in place. Rows past those of the cache are not stored."""
    batch, slots = cache.key.shape[:2]
    slot = position[:batch] % slots
    return LayerCache(update_slots(cache.key, k[:batch], slot), update_slots(cache.value, v[:batch], slot))


def filled(cache: LayerCache, position: Int[Array, " R"]) -> Int[Array, " B"]:
    """How many slots of each text hold a token once the one at `position` is written."""
    batch, slots = cache.key.shape[:2]
    return jnp.minimum(position[:batch] + 1, slots)


def check_capacity(config: GPTConfig, cache: Cache) -> None:
    """Raise UserError where one more token does not fit; under jit, where lengths have no values yet, do nothing."""
    if isinstance(cache.length, jax.core.Tracer):
        return
    slots = [
        layer.key.shape[1]
        for layer, window in zip(cache.layers, config.windows, strict=True)
        if window is None or layer.key.shape[1] < window
    ]
    longest = int(np.max(cache.length))
    if slots and longest >= min(slots):
        raise UserError(
            f"the cache is full: its capacity is {min(slots)} tokens and the longest text has {longest}; "
            "call prefill with a larger capacity"
        )
