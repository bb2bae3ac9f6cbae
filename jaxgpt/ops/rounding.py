"""Rounding to the precision of another dtype."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def round_to(x: Float[Array, "..."], dtype: str) -> Float[Array, "..."]:
    """Returns x rounded to the numbers that `dtype` has, in the dtype of x. The gradient passes as it is.

    >>> import jax, jax.numpy as jnp
    >>> float(round_to(jnp.float32(1.001), "bfloat16")), float(jax.grad(round_to)(1.001, "bfloat16"))
    (1.0, 1.0)
    """
    if dtype == x.dtype:
        return x
    bits = jnp.finfo(dtype)
    rounded = jax.lax.reduce_precision(x, exponent_bits=bits.nexp, mantissa_bits=bits.nmant)
    return x + jax.lax.stop_gradient(rounded - x)
