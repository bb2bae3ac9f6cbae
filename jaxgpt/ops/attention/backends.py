"""The plain forms of attention, and NVIDIA's fused one."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgpt.ops.dropout import DropoutKey, dropout
from jaxgpt.ops.softmax import softmax

Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S K H"]
DocStarts = Int[Array, "B T"] | None
"""The first token of each query's document: no key before it is seen. None: the text is one document."""

MASKED = jnp.finfo(jnp.float32).min
"""The score of a masked key. Finite, so that a padding row without any key gives no NaN."""


def dot_product_attention(
    q: Queries,
    k: Keys,
    v: Keys,
    mask: Bool[Array, "#B T S"],
    *,
    scale: float,
    dropout_rate: float = 0.0,
    dropout_key: DropoutKey = None,
) -> Queries:
    """softmax(scale q kT) v over the keys where `mask` is true; scores and softmax in float32."""
    batch, length, heads, size = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], size)
    scores = scale * jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    weights = softmax(jnp.where(mask[:, None, None], scores, MASKED))
    weights = dropout(weights, dropout_rate, dropout_key).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)


def causal_mask(
    queries: Int[Array, "#B T"], keys: Int[Array, "#B S"], window: int | None, doc_starts: DocStarts = None
) -> Bool[Array, "#B T S"]:
    """Which key positions each query position attends to. A negative key position is padding."""
    distance = queries[:, :, None] - keys[:, None, :]
    mask = (distance >= 0) & (keys >= 0)[:, None, :]
    if window is not None:
        mask &= distance < window
    return mask if doc_starts is None else mask & (keys[:, None, :] >= doc_starts[:, :, None])


def xla(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    window: int | None,
    scale: float,
    dropout_rate: float,
    dropout_key: DropoutKey,
    doc_starts: DocStarts = None,
) -> Queries:
    """All T x T scores at once."""
    positions = jnp.arange(q.shape[1])[None]
    mask = causal_mask(positions, positions, window, doc_starts)
    return dot_product_attention(q, k, v, mask, scale=scale, dropout_rate=dropout_rate, dropout_key=dropout_key)


def banded(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    window: int | None,
    scale: float,
    dropout_rate: float,
    dropout_key: DropoutKey,
    doc_starts: DocStarts = None,
) -> Queries:
    """Blocks of W queries against the keys of their own and the previous block: 2 T W scores instead of T T."""
    batch, length = q.shape[:2]
    assert window is not None, "GPTConfig refuses this"
    window = min(window, length)  # a block longer than the text would be padding
    blocks = -(-length // window)

    def fold(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, blocks * window - length), *((0, 0),) * (x.ndim - 2)))
        return x.reshape(batch * blocks, window, *x.shape[2:])

    def with_previous(x: Array) -> Array:
        x = fold(x).reshape(batch, blocks, window, *x.shape[2:])
        previous = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([previous, x], axis=2).reshape(batch * blocks, 2 * window, *x.shape[3:])

    positions = jnp.arange(blocks * window).reshape(blocks, window)
    keys = jnp.concatenate([positions - window, positions], axis=1)
    if doc_starts is None:
        mask = jnp.tile(causal_mask(positions, keys, window), (batch, 1, 1))
    else:
        positions, keys = (jnp.tile(each, (batch, 1)) for each in (positions, keys))
        mask = causal_mask(positions, keys, window, fold(doc_starts))
    if dropout_key is not None:
        dropout_key = jax.vmap(partial(jax.random.split, num=blocks))(dropout_key).reshape(-1)
    y = dot_product_attention(
        fold(q),
        with_previous(k),
        with_previous(v),
        mask,
        scale=scale,
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
    return y.reshape(batch, blocks * window, *q.shape[2:])[:, :length]


def cudnn(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    window: int | None,
    scale: float,
    dropout_rate: float,
    dropout_key: DropoutKey,
    doc_starts: DocStarts = None,
) -> Queries:
    """NVIDIA's fused attention: no T x T matrix in memory."""
    del dropout_rate, dropout_key, doc_starts  # `select_backend` refuses them here
    # The pair excludes the query itself; without is_causal a window would attend to the future.
    local_window = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=True, local_window_size=local_window, implementation="cudnn"
    )
