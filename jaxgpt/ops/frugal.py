"""Plain functions whose backward pass reads and keeps less than jax.grad's would. Their numbers are the plain ones.

Measured on the compiled training step for an H200 (124M, 32 x 1024 tokens): experiments/LOG.md. A barrier is the
identity; XLA moves nothing across it.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped

barrier = jax.lax.optimization_barrier


def recompute_in_backward(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The same elementwise function, differentiated from its input alone: GELU then keeps one wide array, not three.

    Without the barrier XLA sees that the backward pass repeats the forward pass, and keeps the results after all.
    125.9 -> 118.6 GB of traffic, 14.4 -> 12.0 GB of temporaries.
    """

    def backward(x: Array, d_y: Array) -> tuple[Array]:
        return jax.vjp(function, barrier(x))[1](d_y)

    frugal = jax.custom_vjp(function)
    frugal.defvjp(lambda x: (function(x), x), backward)
    return frugal


@jax.custom_vjp
def softmax(scores: Float[Array, "... S"]) -> Float[Array, "... S"]:
    """jax.nn.softmax over the last axis, keeping its result alone.

    jax.grad would keep exponents and their sum, and multiply by both before it sums over the keys, in a loop that XLA's
    CPU library runs badly; asked for as a product of vectors, the sum is quick: 4 % of a step on two CPU cores.
    """
    return jax.nn.softmax(scores, axis=-1)


def _softmax_forward(scores: Array) -> tuple[Array, Array]:
    weights = softmax(scores)
    return weights, weights


def _softmax_backward(weights: Array, d_weights: Array) -> tuple[Array]:
    mean = jnp.einsum("...s,...s->...", weights, d_weights)
    return (weights * (d_weights - mean[..., None]),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "M D"], scale: Float[Array, " D"], bias: Float[Array, " D"] | None, epsilon: float
) -> Float[Array, "M D"]:
    """Zero mean and unit variance along D, then scale and bias; computed in float32, keeping only x.

    jax.grad would write float32 arrays as large as x, once by rows for x, once by columns for the parameters. Here
    each is a pass of its own over x and the gradient: 117.5 -> 113.0 GB. Keeping nothing but x lets XLA make one kernel
    of the residual sum and the norm (86 kernels fewer), summing for scale and bias at once another 50.
    """
    y = _unit(x, epsilon) * scale[None, :]
    return (y if bias is None else y + bias[None, :]).astype(x.dtype)


def _unit(x: Float[Array, "M D"], epsilon: float) -> Float[Array, "M D"]:
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=1, keepdims=True) + epsilon)


def _layer_norm_backward(
    epsilon: float, kept: tuple[Array, Array, Array | None], d_y: Array
) -> tuple[Array, Array, Array | None]:
    x, scale, bias = kept
    x, d_y = barrier((x, d_y))
    (d_x,) = jax.vjp(lambda x: _unit(x, epsilon) * scale[None, :], x)[1](d_y.astype(jnp.float32))
    x, d_y = barrier((x, d_y))
    unit = barrier(_unit(x, epsilon).astype(x.dtype))
    wide = d_y.astype(jnp.float32)
    scaled = wide * unit.astype(jnp.float32)
    if bias is None:
        return d_x, scaled.sum(axis=0), None
    d_scale, d_bias = barrier(jnp.stack([scaled, wide], axis=1).sum(axis=0))
    return d_x, d_scale, d_bias


layer_norm.defvjp(lambda x, *rest: (layer_norm(x, *rest), (x, *rest[:2])), _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def barrier_copies(x: Array, count: int) -> tuple[Array, ...]:
    """The same array under several names that XLA takes for several arrays.

    Else it joins two of the products with query, key and value, cuts the result in pieces, and in the backward pass
    joins the pieces again: 113.0 -> 108.9 GB.
    """
    return tuple(barrier((x,) * count))


def _together(count: int, nothing: None, gradients: tuple[Array, ...]) -> tuple[Array]:
    del count, nothing
    total, *others = gradients
    for other in others:
        total = other + total  # in this order each sum is part of the matrix product that makes `other`
    return (total,)


barrier_copies.defvjp(lambda x, count: (barrier_copies(x, count), None), _together)


def residual_update(y: Array) -> Array:
    """What is added to the residual stream, as an array.

    Else the sum becomes part of the matrix product that makes y, which needs a copy of the stream to write into; so it
    becomes part of the LayerNorm that follows: 24 kernels fewer, 108.9 -> 107.7 GB.
    """
    return barrier(y)


MIN_GEMM_ROWS = 8
"""Rows of a matrix product on a GPU, when decoding. One of a single row is written out and then summed: from 1 to 8
rows, and with what `for_decoding` does, a token of batch 1 takes 336 MB instead of 2100."""


def pad_rows(x: Shaped[Array, "B ..."], rows: int) -> Shaped[Array, "R ..."]:
    """As many rows of zeros added as `rows` asks for, if any."""
    missing = max(rows - x.shape[0], 0)
    return jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:]))) if missing else x
