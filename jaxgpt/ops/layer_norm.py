"""LayerNorm that saves only its input for the backward pass."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgpt.ops.barrier import barrier


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "M D"], scale: Float[Array, " D"], bias: Float[Array, " D"] | None, epsilon: float
) -> Float[Array, "M D"]:
    """Zero mean and unit variance along D, then scale and bias (Ba et al. 2016, eq. 4); statistics in float32.

    The backward pass recomputes everything from x. jax.grad would write float32 arrays as large as x, once row by row
    for d_x, once column by column for the parameters; here each is one pass over x and d_y. Compiled for an H200
    (124M, 32 x 1024 tokens): 117.5 -> 113.0 GB of traffic. Since only x is saved, XLA fuses the residual sum with the
    norm (86 kernels fewer); summing for scale and bias together saves another 50.
    """
    y = _normalize(x, epsilon) * scale[None, :]
    return (y if bias is None else y + bias[None, :]).astype(x.dtype)


def _normalize(x: Float[Array, "M D"], epsilon: float) -> Float[Array, "M D"]:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=1, keepdims=True) + epsilon)


def _backward(
    epsilon: float, saved: tuple[Array, Array, Array | None], d_y: Array
) -> tuple[Array, Array, Array | None]:
    x, scale, bias = saved
    x, d_y = barrier((x, d_y))
    (d_x,) = jax.vjp(lambda x: _normalize(x, epsilon) * scale[None, :], x)[1](d_y.astype(jnp.float32))
    x, d_y = barrier((x, d_y))
    normalized = barrier(_normalize(x, epsilon).astype(x.dtype))
    wide = d_y.astype(jnp.float32)
    scaled = wide * normalized.astype(jnp.float32)
    if bias is None:
        return d_x, scaled.sum(axis=0), None
    d_scale, d_bias = barrier(jnp.stack([scaled, wide], axis=1).sum(axis=0))
    return d_x, d_scale, d_bias


layer_norm.defvjp(lambda x, *rest: (layer_norm(x, *rest), (x, *rest[:2])), _backward)
