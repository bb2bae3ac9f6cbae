"""The parts every block shares: a linear map, LayerNorm, dropout."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxgpt.model.frugal import layer_norm


class Linear(nnx.Module):
    """y = x W + b, over one or more input and output axes."""

    def __init__(
        self, into: tuple[int, ...], out: tuple[int, ...], *, stddev: float, bias: bool, rngs: nnx.Rngs
    ) -> None:
        self.kernel = nnx.Param(stddev * jax.random.normal(rngs.params(), (*into, *out)))
        self.bias = nnx.Param(jnp.zeros(out)) if bias else None
        self.num_inputs = len(into)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        batch, out = x.shape[: x.ndim - self.num_inputs], self.kernel.shape[self.num_inputs :]
        rows, columns = math.prod(batch), math.prod(out)  # as matrices: a bias of rank 1 is then part of the product
        y = x.reshape(rows, -1) @ self.kernel[...].astype(x.dtype).reshape(-1, columns)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype).reshape(1, columns)
        return y.reshape(*batch, *out)


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the width, then scale and bias (Ba et al. 2016, eq. 4)."""

    def __init__(self, width: int, *, epsilon: float, bias: bool) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width)) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        bias = None if self.bias is None else self.bias[...]
        return layer_norm(x.reshape(-1, x.shape[-1]), self.scale[...], bias, self.epsilon).reshape(x.shape)


def spread(parameter: Float[Array, "..."], ndim: int) -> Float[Array, "..."]:
    """The parameter with leading axes of size 1, so that broadcasting is spelled out."""
    return parameter.reshape((1,) * (ndim - parameter.ndim) + parameter.shape)


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zero each element with probability `rate` and scale up the rest. No key, no dropout."""
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))
