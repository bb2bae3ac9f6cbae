"""Kernels that decode one token of a few texts, in Pallas, for NVIDIA GPUs (its Triton backend). Optional: fused.py.

A decoded token uses each weight and each cached number once, so decoding is bound by memory bandwidth. Each program of
a kernel reads its part of the weights once for all texts, and multiplies and sums in float32 without tensor cores,
which would wait for the memory too. Where there is no GPU the kernels are interpreted, slowly, for tests.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jaxtyping import Float, Int

from jaxgpt.config import Activation
from jaxgpt.errors import UserError
from jaxgpt.ops.attention import MASKED
from jaxgpt.ops.gelu import ELEMENTWISE
from jaxgpt.ops.platform import on_gpu

try:
    from jax.experimental.pallas import triton
except ImportError as error:  # deprecated since jax 0.11
    raise UserError(
        f"fused decoding needs Pallas' Triton backend, which jax {jax.__version__} does not have; leave it out, or "
        "decode by cuDNN: attention='cudnn'"
    ) from error

Ref = Any
"""An array in the GPU's memory, as Pallas hands it to a kernel."""

KVCache = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]
"""Keys and values."""


class LinearWeights(NamedTuple):
    """Of y = x W + b."""

    kernel: Float[Array, "..."]
    bias: Float[Array, "..."]


class NormWeights(NamedTuple):
    """Of a LayerNorm."""

    scale: Float[Array, " D"]
    bias: Float[Array, " D"]
    epsilon: float


MOST_ROWS = 8
"""The most texts for which `project` and `mlp` are worth it: they keep a sum for each in registers."""
TALL = 256
"""The most rows of a matrix read at once; fewer for more than two texts, whose sums share the registers."""
WIDE = 32
"""Hidden units of the MLP per program: 96 programs at 124M, for the 132 processors of an H200."""
KEYS = 128
"""Keys read at once."""
PROGRAMS = 132
"""Processors of the GPU; attention splits the keys of few texts until there are that many programs."""


def project(
    x: Float[Array, "B D"],
    norm: NormWeights,
    query: LinearWeights,
    key: LinearWeights,
    value: LinearWeights,
    rotations: tuple[Float[Array, "B P"], Float[Array, "B P"]] | None,
    slot: Int[Array, " B"],
    cache: KVCache,
) -> tuple[Float[Array, "B N H"], KVCache]:
    """LayerNorm, then queries; keys and values are written into the cache's `slot`. A program makes one head.

    Queries and keys are rotated by the cosines and sines of `rotations`, if any.
    """
    rows, (_, heads, size), kv_heads = x.shape[0], query.kernel.shape, cache[0].shape[2]

    def kernel(x: Ref, scale: Ref, shift: Ref, *rest: Ref) -> None:
        query, query_bias, key, key_bias, value, value_bias, slot, *angles, _, _, q, keys, values = rest
        program, normed = pl.program_id(0), _normed(x, scale, shift, norm.epsilon)

        @pl.when(program < heads)
        def make_queries() -> None:
            for row, pair in enumerate(_head(normed, query, query_bias, program, angles, x.dtype)):
                _store(q, (row, program), pair)

        @pl.when((program >= heads) & (program < heads + kv_heads))
        def make_keys() -> None:
            head = program - heads
            for row, pair in enumerate(_head(normed, key, key_bias, head, angles, x.dtype)):
                _store(keys, (row, slot[row], head), pair)

        @pl.when(program >= heads + kv_heads)
        def make_values() -> None:
            head = program - heads - kv_heads
            for row, pair in enumerate(_head(normed, value, value_bias, head, [], x.dtype)):
                _store(values, (row, slot[row], head), pair)

    weights = [part for linear in (query, key, value) for part in _weights(linear, x.dtype)]
    inputs = (x, norm.scale, norm.bias, *weights, slot, *(rotations or ()), *cache)
    outputs = (jax.ShapeDtypeStruct((rows, heads, size), x.dtype), *map(_shape, cache))
    q, keys, values = _call(kernel, (heads + 2 * kv_heads,), outputs, {len(inputs) - 2: 1, len(inputs) - 1: 2})(*inputs)
    return q, (keys, values)


def _head(
    rows: list[list[Array]], matrix: Ref, bias: Ref, head: Array, angles: list[Ref], dtype: jnp.dtype
) -> list[list[Float[Array, " P"]]]:
    """The two halves of a head of each row, rotated by the cosine and sine of the angles, if any."""

    def columns(half: Any) -> Callable[[Any], Array]:
        return lambda part: matrix[part, head, half]

    halves = _halves(matrix.shape[2])
    products = [_products(rows, columns(half), half.size) for half in halves]
    found = [
        [y + bias[head, half] for y, half in zip(pair, halves, strict=True)] for pair in zip(*products, strict=True)
    ]
    if not angles:
        return found
    rotated = []
    for row, pair in enumerate(found):  # as model/rotary.py does, from products rounded to x's dtype
        a, b = (y.astype(dtype).astype(jnp.float32) for y in pair)
        cos, sin = (angle[row, :] for angle in angles)
        rotated.append([a * cos - b * sin, b * cos + a * sin])
    return rotated


def _store(into: Ref, at: tuple, pair: list[Float[Array, " P"]]) -> None:
    for y, half in zip(pair, _halves(into.shape[-1]), strict=True):
        into[*at, half] = y.astype(into.dtype)


def _halves(size: int) -> list[Any]:
    return [pl.ds(0, size // 2), pl.ds(size // 2, size // 2)]


def decode_attention(
    q: Float[Array, "B N H"], cache: KVCache, lengths: Int[Array, " B"], *, scale: float
) -> Float[Array, "B N H"]:
    """One query a row against the first `lengths` slots of its row: softmax(scale q kT) v, in float32.

    The keys are split into parts that are joined at the end (Dao et al. 2023, Flash-Decoding).
    """
    (rows, heads, size), (_, slots, kv_heads, _) = q.shape, cache[0].shape
    group, wide = heads // kv_heads, min(KEYS, pl.next_power_of_2(slots))
    parts = max(1, min(-(-slots // wide), PROGRAMS // (rows * kv_heads)))

    def kernel(q: Ref, key: Ref, value: Ref, lengths: Ref, mixed: Ref, most: Ref, total: Ref) -> None:
        row, kv_head, part = (pl.program_id(axis) for axis in range(3))
        queries = [kv_head * group + n for n in range(group)]
        scaled = [q[row, head, :].astype(jnp.float32) * scale for head in queries]

        def add_keys(number: Array, so_far: list[tuple[Array, Array, Array]]) -> list[tuple[Array, Array, Array]]:
            at = (number * parts + part) * wide + jnp.arange(wide)
            inside = jnp.minimum(at, slots - 1)
            k, v = (cached[row, inside, kv_head, :].astype(jnp.float32) for cached in (key, value))
            return [_joined(one, _scores(a, k, at < lengths[row]), v) for a, one in zip(scaled, so_far, strict=True)]

        nothing = (jnp.float32(MASKED), jnp.float32(0), jnp.zeros(size, jnp.float32))
        steps = (lengths[row] + parts * wide - 1) // (parts * wide)
        found = jax.lax.fori_loop(0, steps, add_keys, [nothing] * group)
        for head, (greatest, sum_, sums) in zip(queries, found, strict=True):
            mixed[row, part, head, :], most[row, part, head], total[row, part, head] = sums, greatest, sum_

    shape = (rows, parts, heads)
    outputs = [jax.ShapeDtypeStruct((*shape, *rest), jnp.float32) for rest in ((size,), (), ())]
    mixed, most, total = _call(kernel, (rows, kv_heads, parts), outputs)(q, *cache, lengths)
    share = jnp.exp(most - most.max(axis=1, keepdims=True))
    whole = (share * total).sum(axis=1)
    return ((share[..., None] * mixed).sum(axis=1) / whole[..., None]).astype(q.dtype)


def _scores(q: Float[Array, " H"], k: Float[Array, "S H"], mask: Array) -> Float[Array, " S"]:
    return jnp.where(mask, (k * q[None, :]).sum(axis=1), MASKED)


def _joined(
    so_far: tuple[Array, Array, Array], scores: Float[Array, " S"], v: Float[Array, "S H"]
) -> tuple[Array, Array, Array]:
    """The greatest score, the sum of exponents and the sum of values weighted by them, with more keys."""
    greatest, total, mixed = so_far
    now = jnp.maximum(greatest, scores.max())
    fading, weights = jnp.exp(greatest - now), jnp.where(scores > MASKED, jnp.exp(scores - now), 0.0)
    return now, fading * total + weights.sum(), fading * mixed + (weights[:, None] * v).sum(axis=0)


def out(x: Float[Array, "B D"], mixed: Float[Array, "B N H"], linear: LinearWeights) -> Float[Array, "B D"]:
    """Returns x + the output projection of attention. A program makes some columns."""
    (rows, width), wide = x.shape, min(WIDE, tallest(x.shape[1]))
    kernel, bias = _weights(linear, x.dtype)

    def add(mixed: Ref, kernel: Ref, bias: Ref, x: Ref, out: Ref) -> None:
        columns = pl.ds(pl.program_id(0) * wide, wide)
        read = [[row.astype(jnp.float32) for row in parts] for parts in _parts(mixed)]
        for row, y in enumerate(_products(read, lambda part: kernel[part, columns], wide)):
            out[row, columns] = (x[row, columns] + (y + bias[columns]).astype(x.dtype)).astype(x.dtype)

    flat = kernel.reshape(-1, width)
    return _call(add, (width // wide,), _shape(x))(mixed.reshape(rows, -1), flat, bias, x)


def mlp(
    x: Float[Array, "B D"], norm: NormWeights, up: LinearWeights, down: LinearWeights, activation: Activation
) -> Float[Array, "B D"]:
    """Returns x + the MLP of its LayerNorm.

    A program makes some hidden units and what they add to the output, so that none waits for another.
    """
    (rows, width), hidden = x.shape, up.kernel.shape[1]
    wide = min(WIDE, tallest(hidden))
    (up_kernel, up_bias), (down_kernel, down_bias) = _weights(up, x.dtype), _weights(down, x.dtype)

    def kernel(x: Ref, scale: Ref, shift: Ref, up: Ref, bias: Ref, down: Ref, out: Ref) -> None:
        program = pl.program_id(0)
        units = pl.ds(program * wide, wide)
        found = _products(_normed(x, scale, shift, norm.epsilon), lambda part: up[part, units], wide)
        made = [ELEMENTWISE[activation](y + bias[units]).astype(x.dtype).astype(jnp.float32) for y in found]
        for columns in _spans(width):
            weights = down[units, columns].astype(jnp.float32)
            for row, units_of_row in enumerate(made):
                out[program, row, columns] = (units_of_row[:, None] * weights).sum(axis=0)

    sums = jax.ShapeDtypeStruct((hidden // wide, rows, width), jnp.float32)
    added = _call(kernel, (hidden // wide,), sums)(x, norm.scale, norm.bias, up_kernel, up_bias, down_kernel)
    return (x + (added.sum(axis=0) + down_bias[None, :])).astype(x.dtype)


def tallest(size: int, rows: int = 1) -> int:
    """The largest power of two that divides a size, within what `rows` texts leave: Triton's arrays have such sizes."""
    return min(TALL, 2 * TALL // pl.next_power_of_2(rows), size & -size)


def _spans(size: int, rows: int = 1) -> list[Any]:
    """A size in parts of a power of two."""
    tall = tallest(size, rows)
    return [pl.ds(start, tall) for start in range(0, size, tall)]


def _parts(x: Ref) -> list[list[Array]]:
    """Each row, in parts."""
    rows, size = x.shape
    return [[x[row, span] for span in _spans(size, rows)] for row in range(rows)]


def _normed(x: Ref, scale: Ref, shift: Ref, epsilon: float) -> list[list[Array]]:
    """The LayerNorm of each row, in parts: as ops/layer_norm.py computes it, rounded to the dtype of x."""
    spans = _spans(x.shape[1], x.shape[0])

    def normed(parts: list[Array]) -> list[Array]:
        wide = [part.astype(jnp.float32) for part in parts]
        mean = sum(part.sum() for part in wide) / x.shape[1]
        variance = sum(jnp.square(part - mean).sum() for part in wide) / x.shape[1]
        unit = [(part - mean) * jax.lax.rsqrt(variance + epsilon) for part in wide]
        scaled = [part * scale[span] + shift[span] for part, span in zip(unit, spans, strict=True)]
        return [part.astype(x.dtype).astype(jnp.float32) for part in scaled]

    return [normed(parts) for parts in _parts(x)]


def _products(rows: list[list[Array]], weights: Callable[[Any], Array], wide: int) -> list[Float[Array, " C"]]:
    """Each row times a matrix of few columns, whose rows `weights` reads; each number of it once."""
    spans = _spans(sum(part.shape[0] for part in rows[0]), len(rows))
    sums = [jnp.zeros((rows[0][0].shape[0], wide), jnp.float32)] * len(rows)
    for at, span in enumerate(spans):
        part = weights(span).astype(jnp.float32)
        sums = [total + row[at][:, None] * part for total, row in zip(sums, rows, strict=True)]
    return [total.sum(axis=0) for total in sums]


def _weights(linear: LinearWeights, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Kernel, and bias in float32."""
    return linear.kernel.astype(dtype), linear.bias.astype(dtype).astype(jnp.float32)


def _shape(array: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _call(kernel: Callable, grid: tuple[int, ...], out: object, aliases: dict[int, int] | None = None) -> Callable:
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=out,
        input_output_aliases=aliases or {},
        interpret=not on_gpu(),
        compiler_params=triton.CompilerParams(num_warps=8) if on_gpu() else None,
    )
