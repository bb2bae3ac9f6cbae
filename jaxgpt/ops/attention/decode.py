"""Attention of one new token of each text to the keys and values in its cache."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import Backend
from jaxgpt.ops.attention.backends import MASKED, Keys, Queries, dot_product_attention
from jaxgpt.ops.barrier import barrier
from jaxgpt.ops.linear import pad_rows
from jaxgpt.ops.platform import target_platform
from jaxgpt.ops.softmax import softmax

LANES = 16
"""Numbers of a head that are added lane by lane before the lanes are."""
SLOTS_PER_LOOP = 4
"""Values that one loop adds. With 4, attention to 256 slots takes 0.4 of the time that 16 take, for one text and for 8
(jax 0.10.2; with 0.12 1.1 of it)."""


def decode_attention(
    q: Float[Array, "R 1 N H"], k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float, backend: Backend = "auto"
) -> Float[Array, "R 1 N H"]:
    """One query a row against the first `lengths` keys of its row. Rows of q past those of k give zeros."""
    decoder = "cudnn" if backend == "cudnn" else "cpu" if target_platform() == "cpu" else "xla"
    y = DECODERS[decoder](q[: k.shape[0]], k, v, lengths, scale=scale)
    return pad_rows(y, q.shape[0])


def xla(q: Queries, k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float) -> Queries:
    """By two matrix products."""
    mask = (jnp.arange(k.shape[1])[None] < lengths[:, None])[:, None]
    return dot_product_attention(q, k, v, mask, scale=scale)


def cpu(q: Queries, k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float) -> Queries:
    """By loops over the cache as it lies: for a matrix product XLA copies all of it, with the heads first.

    Each loop adds a few terms of many sums, which become vectors (ops/row_product.py); a second one adds the rest. For
    64 texts of 256 slots 0.16 of the time of products, for one text 0.4 to 0.7, in bfloat16 as in float32.
    """
    batch, slots, kv_heads, size = k.shape
    grouped = q.reshape(batch, 1, kv_heads, -1, size)
    lanes, terms = math.gcd(size, LANES), math.gcd(slots, SLOTS_PER_LOOP)
    products = k[:, :, :, None].astype(jnp.float32) * grouped.astype(jnp.float32)
    products = products.reshape(batch, slots, *grouped.shape[2:4], -1, lanes)
    scores = scale * barrier(products.sum(axis=4)).sum(axis=4)
    mask = jnp.arange(slots)[None, :, None, None] < lengths[:, None, None, None]
    weights = softmax(jnp.where(mask, scores, MASKED).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    weights = weights.reshape(batch, -1, terms, *grouped.shape[2:4], 1)
    weighted = weights * v.astype(jnp.float32).reshape(batch, -1, terms, kv_heads, 1, size)
    return barrier(weighted.sum(axis=2)).sum(axis=1).reshape(q.shape).astype(v.dtype)


def cudnn(q: Queries, k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float) -> Queries:
    """By NVIDIA's fused attention, which writes no scores."""
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        query_seq_lengths=jnp.ones_like(lengths),
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )


DECODERS: dict[str, Callable[..., Array]] = {"xla": xla, "cpu": cpu, "cudnn": cudnn}
"""cuDNN's has never run on a GPU: it is used only where attention='cudnn' asks for it by name."""
