"""Argmax over the vocabulary."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.ops.barrier import barrier
from jaxgpt.ops.platform import target_platform


def argmax(x: Float[Array, "... V"]) -> Int[Array, "..."]:
    """The index of the largest number along the last axis, as int32. Of equal numbers the first counts.

    On a CPU XLA computes jnp.argmax in one loop that it does not vectorize: 0.22 ms for a row of GPT-2's logits. The
    maximum and then its index take 0.05 ms. For a row with a NaN some valid index is returned.

    >>> int(argmax(jnp.array([0.0, 3.0, 1.0, 3.0])))
    1
    """
    if target_platform() != "cpu":
        return x.argmax(axis=-1).astype(jnp.int32)
    largest = barrier(x.max(axis=-1, keepdims=True))  # without it XLA merges both loops
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return jnp.where(x < largest, x.shape[-1] - 1, index).min(axis=-1)
