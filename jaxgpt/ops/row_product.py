"""The product of one row and a matrix on a CPU, whose cost is reading the matrix."""

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped, UInt16

from jaxgpt.ops.barrier import barrier

TERMS = 16
"""Rows of the matrix that one loop adds: LLVM unrolls them and vectorizes the loop over columns. With 32, bfloat16 is
read at 0.8 of this speed; with 8, int8 at 0.87."""

PARTS = 32
"""Of a table, so that each core has some."""


def row_product(x: Float[Array, "1 I"], kernel: Shaped[Array, "I O"]) -> Float[Array, "1 O"]:
    """X W of one row, in float32; a kernel of fewer bits is widened in registers.

    On two cores with AVX-512 this reads 10e9 weights a second in float32, 18e9 in bfloat16 and 30e9 in int8. XLA's own
    product of one row reads the latter two by a plain loop, 0.8e9, and takes 1.1 times as long in float32.

    >>> import jax.numpy as jnp
    >>> row_product(jnp.array([[1.0, 2.0]]), jnp.array([[3, 4, 5], [0, 1, 0]], jnp.int8)).tolist()
    [[3.0, 6.0, 5.0]]
    """
    inputs, outputs = kernel.shape
    terms = math.gcd(inputs, TERMS)
    is_bfloat16 = kernel.dtype == jnp.bfloat16
    stored = jax.lax.bitcast_convert_type(kernel, jnp.uint16) if is_bfloat16 else kernel
    x, stored = barrier((x, stored))  # else XLA widens the kernel once, before the loop over tokens
    wide = _from_bfloat16(stored) if is_bfloat16 else stored.astype(jnp.float32)
    parts = wide.reshape(-1, terms, outputs) * x.astype(jnp.float32).reshape(-1, terms, 1)
    sums = barrier(parts.sum(axis=1))  # without it XLA adds all in one loop that is no vectors
    return jnp.ones((1, len(sums))) @ sums


def _from_bfloat16(bits: UInt16[Array, "I O"]) -> Float[Array, "I O"]:
    """The upper half of a float32's bits. As bfloat16 numbers XLA would widen them at the barrier, in memory."""
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


def row_product_transposed(x: Float[Array, "1 D"], table: Float[Array, "V D"]) -> Float[Array, "1 V"]:
    """X tableT of one row, in float32, by parts of the table: XLA computes a product alone on one core.

    >>> import jax.numpy as jnp
    >>> row_product_transposed(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [[11.0, 2.0]]
    """
    parts = table.reshape(math.gcd(len(table), PARTS), -1, table.shape[1])
    rows = jnp.broadcast_to(x, (len(parts), *x.shape))
    return jnp.einsum("pmd,pvd->pmv", rows, parts).reshape(1, -1)
