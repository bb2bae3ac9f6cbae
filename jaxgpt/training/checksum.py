"""A number for each array that changes with any bit of it, and not with the devices it lives on."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import UInt32

BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
"""The unsigned integer as wide as a number of so many bytes."""


def checksums(arrays: dict[str, Array]) -> dict[str, int]:
    """The checksum of each array of numbers of at most 32 bits, by name."""
    return {name: int(value) for name, value in jax.device_get(_all(arrays)).items()}


@jax.jit
def _all(arrays: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    return {name: checksum(array) for name, array in arrays.items()}


def checksum(array: Array) -> UInt32[Array, ""]:
    """The bits of each number as an integer, times an odd number of its own, summed modulo 2^32.

    An odd factor has an inverse, so a change of one number always changes the sum; of several, all but once in 2^32.
    Sums of integers do not depend on their order, so neither does this on how the array is sharded.
    """
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(array, BITS[array.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(array.shape, jnp.uint32)
    for axis, stride in enumerate(np.cumprod((1, *array.shape[:0:-1]))[::-1] if array.ndim else ()):
        place = place + jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    return (bits * (2 * place + 1)).sum(dtype=jnp.uint32)
