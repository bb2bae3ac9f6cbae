"""One tile of attention scores: some queries against some keys. Heads stand before positions.

Each product is then a plain matrix product, and grouped heads are a broadcast axis: no key is repeated.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jaxgpt.ops.attention.backends import MASKED
from jaxgpt.ops.dropout import DropoutKey, dropout

Heads = Float[Array, "B K G T H"]
KeyHeads = Float[Array, "B K S H"]
Mask = Bool[Array, "#B T S"]


class Settings(NamedTuple):
    """What is the same for every tile."""

    window: int | None
    scale: float
    dropout_rate: float


class PartialSoftmax(NamedTuple):
    """Attention to the keys so far (Milakov & Gimelshein 2018, online softmax)."""

    values: Float[Array, "B K G T H"]
    """The sum of the values, weighted by exp(score - peak)."""
    total: Float[Array, "B K G T"]
    """The sum of the weights."""
    peak: Float[Array, "B K G T"]
    """The largest score."""


class Saved(NamedTuple):
    """Of each query, what the gradient needs."""

    q: Heads
    log_sum_exp: Float[Array, "B K G T"]
    """Of its scores."""
    d_y: Heads
    """The gradient by its result."""
    mean: Float[Array, "B K G T"]
    """The mean of the gradient by its weights, over all keys: the product of d_y and y."""


def forward(q: Heads, k: KeyHeads, v: KeyHeads, mask: Mask, key: DropoutKey, settings: Settings) -> PartialSoftmax:
    """Attention to the keys of one tile."""
    scores = _scores(q, k, mask, settings.scale)
    peak = scores.max(axis=-1)
    weights = jnp.exp(scores - peak[..., None])
    total = weights.sum(axis=-1)
    weights = dropout(weights, settings.dropout_rate, key).astype(v.dtype)
    return PartialSoftmax(_product("bkgts,bksh->bkgth", weights, v), total, peak)


def join(one: PartialSoftmax, other: PartialSoftmax) -> PartialSoftmax:
    """Attention to the keys of both."""
    peak = jnp.maximum(one.peak, other.peak)
    a, b = jnp.exp(one.peak - peak), jnp.exp(other.peak - peak)
    return PartialSoftmax(
        a[..., None] * one.values + b[..., None] * other.values, a * one.total + b * other.total, peak
    )


def finish(found: PartialSoftmax, dtype: jnp.dtype) -> tuple[Heads, Float[Array, "B K G T"]]:
    """The weighted mean of the values, and the log-sum-exp of the scores."""
    return (found.values / found.total[..., None]).astype(dtype), found.peak + jnp.log(found.total)


def backward(
    saved: Saved, k: KeyHeads, v: KeyHeads, mask: Mask, key: DropoutKey, settings: Settings
) -> tuple[Heads, KeyHeads, KeyHeads]:
    """What a tile adds to the gradients by queries, keys and values, in float32."""
    q, log_sum_exp, d_y, mean = saved
    weights = jnp.exp(_scores(q, k, mask, settings.scale) - log_sum_exp[..., None])
    dropped = dropout(weights, settings.dropout_rate, key).astype(d_y.dtype)
    d_v = _product("bkgts,bkgth->bksh", dropped, d_y)
    d_weights = dropout(_product("bkgth,bksh->bkgts", d_y, v), settings.dropout_rate, key)
    d_scores = (settings.scale * weights * (d_weights - mean[..., None])).astype(q.dtype)
    d_q = _product("bkgts,bksh->bkgth", d_scores, k)
    return d_q, _product("bkgts,bkgth->bksh", d_scores, q), d_v


def _scores(q: Heads, k: KeyHeads, mask: Mask, scale: float) -> Float[Array, "B K G T S"]:
    return jnp.where(mask[:, None, None], scale * _product("bkgth,bksh->bkgts", q, k), MASKED)


def _product(axes: str, a: Array, b: Array) -> Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)
