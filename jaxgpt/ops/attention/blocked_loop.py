"""The blocked form for long texts: a loop over tiles of BLOCK x BLOCK scores, so that program and memory stay small."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgpt.ops.attention import tiles
from jaxgpt.ops.attention.backends import MASKED, DocStarts, causal_mask
from jaxgpt.ops.attention.tiles import Heads, KeyHeads, PartialSoftmax, Saved, Settings
from jaxgpt.ops.dropout import DropoutKey, fold_keys

BLOCK = 512


def forward(
    q: Heads, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> tuple[Heads, Float[Array, "B K G T"]]:
    """The result, and the log-sum-exp of each query's scores."""
    length, dtype = q.shape[3], q.dtype
    q, k, v, doc_starts = _pad(q, 3), _pad(k, 2), _pad(v, 2), _pad_starts(doc_starts)

    def of_queries(_: None, row: Array) -> tuple[None, tuple[Array, Array]]:
        block = _block(q, row, 3)

        def add(column: Array, so_far: PartialSoftmax) -> PartialSoftmax:
            mask, key = _mask(row, column, settings.window, doc_starts), _key(dropout_key, row, column)
            return tiles.join(
                so_far, tiles.forward(block, _block(k, column, 2), _block(v, column, 2), mask, key, settings)
            )

        zeros = jnp.zeros_like(block, jnp.float32)
        nothing = PartialSoftmax(zeros, zeros[..., 0], zeros[..., 0] + MASKED)
        return None, tiles.finish(
            jax.lax.fori_loop(_first(row, settings.window, doc_starts), row + 1, add, nothing), dtype
        )

    _, (y, log_sum_exp) = jax.lax.scan(of_queries, None, jnp.arange(q.shape[3] // BLOCK))
    return _joined(y)[:, :, :, :length], _joined(log_sum_exp)[:, :, :, :length]


def backward(
    saved: Saved, k: KeyHeads, v: KeyHeads, dropout_key: DropoutKey, doc_starts: DocStarts, settings: Settings
) -> tuple[Heads, KeyHeads, KeyHeads]:
    """The gradients by queries, keys and values, in float32."""
    length = k.shape[2]
    saved, k, v = Saved(*(_pad(part, 3) for part in saved)), _pad(k, 2), _pad(v, 2)
    doc_starts = _pad_starts(doc_starts)

    def of_queries(sums: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], Array]:
        block = Saved(*(_block(part, row, 3) for part in saved))

        def add(column: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            mask, key = _mask(row, column, settings.window, doc_starts), _key(dropout_key, row, column)
            d_q, *more = tiles.backward(block, _block(k, column, 2), _block(v, column, 2), mask, key, settings)
            d_k, d_v = (_add_to_block(total, column, part) for total, part in zip(so_far[1:], more, strict=True))
            return so_far[0] + d_q, d_k, d_v

        start = (jnp.zeros_like(block.q, jnp.float32), *sums)
        d_q, d_k, d_v = jax.lax.fori_loop(_first(row, settings.window, doc_starts), row + 1, add, start)
        return (d_k, d_v), d_q

    zeros = (jnp.zeros_like(k, jnp.float32), jnp.zeros_like(v, jnp.float32))
    (d_k, d_v), d_q = jax.lax.scan(of_queries, zeros, jnp.arange(k.shape[2] // BLOCK))
    return _joined(d_q)[:, :, :, :length], d_k[:, :, :length], d_v[:, :, :length]


def _first(row: Array, window: int | None, doc_starts: DocStarts) -> Array | int:
    """The first block of keys that a block of queries can see: what lies before is not computed."""
    first = 0 if window is None else jnp.maximum(0, row * BLOCK - window + 1) // BLOCK
    if doc_starts is None:
        return first
    return jnp.maximum(first, _block(doc_starts, row, 1)[:, 0].min() // BLOCK)


def _mask(row: Array, column: Array, window: int | None, doc_starts: DocStarts) -> Array:
    steps = jnp.arange(BLOCK)[None]
    starts = None if doc_starts is None else _block(doc_starts, row, 1)
    return causal_mask(row * BLOCK + steps, column * BLOCK + steps, window, starts)


def _key(dropout_key: DropoutKey, row: Array, column: Array) -> DropoutKey:
    return fold_keys(fold_keys(dropout_key, row), column)


def _pad(x: Array, axis: int) -> Array:
    """Filled up with zeros to whole blocks: keys that no query can see, queries whose results are cut off."""
    widths = [(0, -x.shape[axis] % BLOCK if at == axis else 0) for at in range(x.ndim)]
    return jnp.pad(x, widths)


def _pad_starts(doc_starts: DocStarts) -> DocStarts:
    return None if doc_starts is None else _pad(doc_starts, 1)


def _block(x: Array, number: Array, axis: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, number * BLOCK, BLOCK, axis)


def _add_to_block(total: KeyHeads, number: Array, part: Float[Array, "B K C H"]) -> KeyHeads:
    return jax.lax.dynamic_update_slice_in_dim(total, _block(total, number, 2) + part, number * BLOCK, 2)


def _joined(blocks: Float[Array, "C B K G T ..."]) -> Float[Array, "B K G T2 ..."]:
    """Blocks of queries, as a scan stacks them, one after another."""
    x = jnp.moveaxis(blocks, 0, 3)
    return x.reshape(*x.shape[:3], -1, *x.shape[5:])
