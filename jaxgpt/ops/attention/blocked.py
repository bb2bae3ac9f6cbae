"""Attention by blocks of queries, each against the keys it can see: memory O(T), half of the T x T scores or fewer.

The gradient keeps the result and the log-sum-exp of each query's scores, and computes the weights again (Dao et al.
2022, FlashAttention, algorithms 1 and 4).
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgpt.ops.attention import blocked_loop, tiles
from jaxgpt.ops.attention.backends import DocStarts, Keys, Queries, causal_mask
from jaxgpt.ops.attention.tiles import Heads, KeyHeads, Saved, Settings
from jaxgpt.ops.dropout import DropoutKey, fold_keys

BLOCK = 128
"""Queries of a block. On a CPU 64 to 256 take the same time within 10 %, at 256 to 1024 tokens."""
MAX_BLOCKS = 32
"""Up to so many blocks are traced one by one, each with exactly the keys that it can see; a longer text is a loop."""


def blocked(
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
    """Blocks of queries against the keys from the window's edge to the block's end."""
    batch, length, heads, size = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(batch, length, kv_heads, heads // kv_heads, size).transpose(0, 2, 3, 1, 4)
    k, v = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    y = _attention(grouped, k, v, dropout_key, doc_starts, Settings(window, scale, dropout_rate))
    return y.transpose(0, 3, 1, 2, 4).reshape(q.shape)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attention(
    q: Heads, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> Heads:
    return _forward(q, k, v, dropout_key, doc_starts, settings)[0]


def _forward(
    q: Heads, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> tuple[Heads, tuple[Array | None, ...]]:
    forward = blocked_loop.forward if _is_long(q.shape[3]) else _forward_by_block
    y, log_sum_exp = forward(q, k, v, dropout_key, doc_starts, settings)
    return y, (q, k, v, dropout_key, doc_starts, y, log_sum_exp)


def _backward(
    settings: Settings, saved: tuple[Array, Array, Array, DropoutKey, DocStarts, Array, Array], d_y: Heads
) -> tuple[Heads, KeyHeads, KeyHeads, None, None]:
    q, k, v, dropout_key, doc_starts, y, log_sum_exp = saved
    mean = (d_y.astype(jnp.float32) * y.astype(jnp.float32)).sum(axis=-1)
    backward = blocked_loop.backward if _is_long(q.shape[3]) else _backward_by_block
    d_q, d_k, d_v = backward(Saved(q, log_sum_exp, d_y, mean), k, v, dropout_key, doc_starts, settings)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None, None


_attention.defvjp(_forward, _backward)


def _is_long(length: int) -> bool:
    return length > MAX_BLOCKS * BLOCK


def _forward_by_block(
    q: Heads, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> tuple[Heads, Float[Array, "B K G T"]]:
    found = []
    for number, (queries, keys) in enumerate(_blocks(q.shape[3], settings.window)):
        mask, key = _mask(queries, keys, settings.window, doc_starts), fold_keys(dropout_key, number)
        tile = tiles.forward(q[:, :, :, queries], k[:, :, keys], v[:, :, keys], mask, key, settings)
        found.append(tiles.finish(tile, q.dtype))
    y, log_sum_exp = (jnp.concatenate(parts, axis=3) for parts in zip(*found, strict=True))
    return y, log_sum_exp


def _backward_by_block(
    saved: Saved, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> tuple[Heads, KeyHeads, KeyHeads]:
    d_q, d_k, d_v = [], jnp.zeros_like(k, jnp.float32), jnp.zeros_like(v, jnp.float32)
    for number, (queries, keys) in enumerate(_blocks(saved.q.shape[3], settings.window)):
        mask, key = _mask(queries, keys, settings.window, doc_starts), fold_keys(dropout_key, number)
        block = Saved(*(part[:, :, :, queries] for part in saved))
        d_block, more_k, more_v = tiles.backward(block, k[:, :, keys], v[:, :, keys], mask, key, settings)
        d_q.append(d_block)
        d_k, d_v = d_k.at[:, :, keys].add(more_k), d_v.at[:, :, keys].add(more_v)
    return jnp.concatenate(d_q, axis=3), d_k, d_v


def _blocks(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Each block of queries, and the keys that it can see."""
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        yield slice(start, end), slice(0 if window is None else max(0, start - window + 1), end)


def _mask(queries: slice, keys: slice, window: int | None, doc_starts: DocStarts) -> Array:
    t, s = (jnp.arange(part.start, part.stop)[None] for part in (queries, keys))
    return causal_mask(t, s, window, None if doc_starts is None else doc_starts[:, queries])
