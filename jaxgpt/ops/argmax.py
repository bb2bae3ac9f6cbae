"""Where the largest number of each row is."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.ops.barrier import barrier
from jaxgpt.ops.platform import target_platform


def argmax(x: Float[Array, "... V"]) -> Int[Array, "..."]:
    """The index of the largest number along the last axis, as an int32; of equal ones, the first.

    On a CPU XLA finds value and index in one loop, which it does not vectorize: 0.22 ms for a row of GPT-2's logits,
    where this takes 0.05. A row with a NaN has no largest number, and any index is returned.

    >>> int(argmax(jnp.array([0.0, 3.0, 1.0, 3.0])))
    1
    """
    if target_platform() != "cpu":
        return x.argmax(axis=-1).astype(jnp.int32)
    largest = barrier(x.max(axis=-1, keepdims=True))  # else both loops become one again
    index = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    return jnp.where(x < largest, x.shape[-1] - 1, index).min(axis=-1)
