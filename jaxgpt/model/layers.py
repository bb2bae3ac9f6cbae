"""The parts every block shares: a linear map, LayerNorm, dropout."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Key, Shaped

from jaxgpt.ops.frugal import layer_norm

DropoutKeys = Key[Array, " B"] | None
"""A random key for each sequence, so that what is dropped does not depend on where or beside which others it is
computed. None: nothing is dropped."""


class PRNGSequence:
    """The keys that `rngs.params()` gives, in the same order, counted outside of what is traced.

    Where a model is traced, nnx's own count takes three quarters of the time (gpt2-large: 3.2 of 4.3 seconds).
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stream, self.done = rngs.params, 0
        self.key, self.start = self.stream.key[...], self.stream.count[...]

    def params(self) -> Key[Array, ""]:
        """The next key."""
        self.done += 1
        return jax.random.fold_in(self.key, self.start + (self.done - 1))

    def end(self) -> None:
        """Let the stream go on after the keys that were drawn."""
        self.stream.count[...] = self.start + self.done


class Linear(nnx.Module):
    """y = x W + b, over one or more input and output axes."""

    def __init__(
        self, into: tuple[int, ...], out: tuple[int, ...], *, stddev: float, bias: bool, rngs: nnx.Rngs | PRNGSequence
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


def dropout(x: Float[Array, "B ..."], rate: float, keys: DropoutKeys) -> Float[Array, "B ..."]:
    """Zero each element with probability `rate` and scale up the rest. No keys, no dropout."""
    if keys is None or rate == 0.0:
        return x
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def split_keys(keys: DropoutKeys, count: int) -> Shaped[Array, "C B"] | tuple[None, ...]:
    """`count` independent keys for each key."""
    return (None,) * count if keys is None else jax.vmap(partial(jax.random.split, num=count), out_axes=1)(keys)


def fold_keys(keys: DropoutKeys, number: int | Array) -> DropoutKeys:
    """Another key for each key and number."""
    return None if keys is None else jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
