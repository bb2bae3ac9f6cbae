"""Attention of one new token of each text to the keys and values in its cache."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import Backend
from jaxgpt.ops.attention.backends import Keys, Queries, dot_product_attention
from jaxgpt.ops.linear import pad_rows


def decode_attention(
    q: Float[Array, "R 1 N H"], k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float, backend: Backend = "auto"
) -> Float[Array, "R 1 N H"]:
    """One query a row against the first `lengths` keys of its row. Rows of q past those of k give zeros."""
    y = DECODERS["cudnn" if backend == "cudnn" else "xla"](q[: k.shape[0]], k, v, lengths, scale=scale)
    return pad_rows(y, q.shape[0])


def xla(q: Queries, k: Keys, v: Keys, lengths: Int[Array, " B"], *, scale: float) -> Queries:
    """By two matrix products."""
    mask = (jnp.arange(k.shape[1])[None] < lengths[:, None])[:, None]
    return dot_product_attention(q, k, v, mask, scale=scale)


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


DECODERS: dict[str, Callable[..., Array]] = {"xla": xla, "cudnn": cudnn}
"""cuDNN's has never run on a GPU: it is used only where attention='cudnn' asks for it by name."""
