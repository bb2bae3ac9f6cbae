"""The key-value cache: an argument and a result of the model, never a state of it."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.ops.platform import target_platform

T = TypeVar("T")


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
    rows, slot = jnp.arange(batch), position[:batch] % slots

    def put(old: Array, new: Array) -> Array:
        if to_bits(old).dtype != old.dtype:
            return from_bits(put(to_bits(old), to_bits(new)))
        new = new[:batch]
        if len(rows) == 1:  # as a scatter, XLA would check its bounds in a kernel of its own
            return jax.lax.dynamic_update_slice_in_dim(old, new[:, None], slot[0], axis=1)
        return old.at[rows, slot].set(new, unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds")

    return LayerCache(put(cache.key, k), put(cache.value, v))


def to_bits(arrays: T) -> T:
    """On a CPU, bfloat16 arrays as uint16; the others, and those of other devices, as they are.

    XLA's CPU backend writes a row of a bfloat16 array by widening all of it to float32, and narrowing it again. A loop
    over tokens therefore carries bits: 8 texts of GPT-2 124M go on 1.5 times as fast.
    """
    if target_platform() != "cpu":
        return arrays
    return jax.tree.map(lambda x: _cast_bits(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x, arrays)


def from_bits(arrays: T) -> T:
    """What `to_bits` was given."""
    return jax.tree.map(lambda x: _cast_bits(x, jnp.bfloat16) if x.dtype == jnp.uint16 else x, arrays)


_cast_bits = jax.lax.bitcast_convert_type


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
