"""The global norm of a gradient that may be sharded, in few kernels."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgpt.model.gpt import GPT
from jaxgpt.ops.barrier import barrier
from jaxgpt.parallel.mesh import FSDP

VECTOR = 16384
"""Size of the largest leaf that gets no kernel of its own."""


def global_norm(gradients: GPT, specs: GPT) -> Float[Array, ""]:
    """The square root of the sum of the squares of all numbers, inside shard_map; one scalar is all-reduced."""
    pairs = list(zip(jax.tree.leaves(gradients), jax.tree.leaves(specs), strict=True))
    sharded, whole = ([leaf for leaf, spec in pairs if (FSDP in spec) == is_sharded] for is_sharded in (True, False))
    total = sum_of_squares(whole)
    if sharded:
        total = total + jax.lax.psum(sum_of_squares(sharded), FSDP)
    return jnp.sqrt(total)


def sum_of_squares(leaves: list[Array]) -> Float[Array, ""]:
    """The sum of all squares.

    Summing each leaf to a scalar would take kernels of its own: on a GPU two for a matrix, one for a vector. Here rows
    are summed, and the vectors that are left are concatenated and summed at once: 194 kernels fewer at 124M.
    """
    parts = [jnp.square(leaf) for leaf in leaves]
    parts = [part.sum(axis=-1) if part.size > VECTOR else part for part in parts]
    # Without the barrier XLA splits this sum again.
    return barrier(jnp.concatenate([part.reshape(-1) for part in parts])).sum()
