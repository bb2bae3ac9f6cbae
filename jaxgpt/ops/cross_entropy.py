"""Cross-entropy of a linear head, without ever holding all the logits."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.ops.linear import transposed_copy
from jaxgpt.ops.platform import target_platform

CHUNK = 1024
"""Tokens whose logits exist at once on a CPU: at a vocabulary of 50304 they take 206 MB in float32, not gigabytes.
Half as many take 1.06 times as long: each chunk adds to the whole gradient of the table."""

GPU_CHUNK = 8192
"""The same elsewhere: 824 MB in bfloat16. Each chunk reads and writes the whole gradient of the table: few chunks."""


LEAST = float(jnp.finfo(jnp.float32).min)
"""The logit of a padding row: its exponent is 0. Finite, since the difference of two infinities is no number."""


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def cross_entropy(
    x: Float[Array, "M D"], table: Float[Array, "V D"], targets: Int[Array, " M"], vocab_size: int, weight: float = 1.0
) -> Float[Array, ""]:
    """`weight` times the summed negative log-likelihood of `targets` under softmax(x tableT), in nats.

    Rows of the table past vocab_size are padding: they get no probability and no gradient. A target below 0 is masked:
    it adds nothing to the loss and its row of x gets no gradient. Only one chunk of logits exists at a time, and each
    is computed once: the forward pass computes the gradient as well. With a weight of 1/M the gradient of the mean is
    not scaled in a pass of its own.

    >>> import jax.numpy as jnp
    >>> x, table = jnp.zeros((2, 4)), jnp.zeros((8, 4))
    >>> round(float(cross_entropy(x, table, jnp.array([3, -1]), 5)), 4)  # ln 5: five tokens, all alike; one is masked
    1.6094
    """
    chunk_loss, rows, size = _for_platform(vocab_size, weight)
    narrow = table[:rows].astype(x.dtype)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + chunk_loss(*chunk, narrow)[0], None

    return jax.lax.scan(add, _zero(x), chunks(x, targets, size))[0]


def _forward(
    x: Array, table: Array, targets: Array, vocab_size: int, weight: float
) -> tuple[Array, tuple[Array, Array]]:
    chunk_loss, rows, size = _for_platform(vocab_size, weight)
    narrow = table[:rows].astype(x.dtype)

    def add(sums: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        loss, d_x, d_table = chunk_loss(*chunk, narrow)
        return (sums[0] + loss, sums[1] + d_table), d_x

    start = (_zero(x), jnp.zeros_like(narrow, jnp.float32))
    (total, d_table), d_x = jax.lax.scan(add, start, chunks(x, targets, size))
    d_table = jnp.pad(d_table.astype(table.dtype), ((0, table.shape[0] - narrow.shape[0]), (0, 0)))
    return total, (d_x.reshape(-1, x.shape[1])[: x.shape[0]], d_table)


def _backward(
    vocab_size: int, weight: float, gradients: tuple[Array, Array], d_loss: Array
) -> tuple[Array, Array, None]:
    del vocab_size, weight  # custom_vjp passes them
    d_x, d_table = gradients
    return (d_x * d_loss).astype(d_x.dtype), d_table * d_loss, None  # d_loss in bfloat16 would be off by up to 0.4 %


cross_entropy.defvjp(_forward, _backward)


def _zero(like: Array) -> Float[Array, ""]:
    """0 with the device-varying type that another array has inside shard_map."""
    return jnp.zeros_like(like, jnp.float32, shape=())


ChunkLoss = tuple[Float[Array, ""], Float[Array, "M D"], Float[Array, "V D"]]
"""The summed loss of M tokens, and its gradients by x and by the table."""


def _for_platform(vocab_size: int, weight: float) -> tuple[Callable[..., ChunkLoss], int | None, int]:
    """The function of one chunk, how many rows of the table it is given (None: all), and the tokens of a chunk."""
    if target_platform() == "cpu":
        return partial(chunk_loss_cpu, weight=weight), vocab_size, CHUNK
    return partial(chunk_loss_gpu, vocab_size=vocab_size, weight=weight), None, GPU_CHUNK


def chunk_loss_cpu(x: Array, targets: Array, table: Array, *, weight: float) -> ChunkLoss:
    """For CPUs: without forming d_logits = softmax - onehot; the table has no padding rows.

    The softmax part of each gradient is a product with the exponents, which the loss computes anyway; the onehot part
    gathers or adds single rows. So the logits are read twice: 0.94 of the time of forming softmax - onehot, on two CPU
    cores at a vocabulary of 50304. Masking padding rows would read them once more, 7 % of the quickstart step.
    """
    logits = jnp.einsum("md,vd->mv", x, table, preferred_element_type=jnp.float32)
    peak = logits.max(axis=1)
    exponents = jnp.exp(logits - peak[:, None])
    total = exponents.sum(axis=1)
    mask, target_rows = targets >= 0, table[targets]
    weights = jnp.where(mask, jnp.float32(weight), 0)[:, None]
    target_logits = jnp.einsum("md,md->m", x, target_rows, preferred_element_type=jnp.float32)
    loss = weight * jnp.where(mask, jnp.log(total) + peak - target_logits, 0).sum()
    exponents = exponents.astype(x.dtype)
    scale = weights / total[:, None]
    d_x = scale * jnp.einsum("mv,vd->md", exponents, table, preferred_element_type=jnp.float32)
    d_x = d_x - weights * target_rows
    scaled = (scale * x).astype(x.dtype)
    exponents_t = transposed_copy(exponents) if x.dtype == jnp.bfloat16 else exponents.T
    d_table = jnp.matmul(exponents_t, scaled, preferred_element_type=jnp.float32)
    return loss, d_x.astype(x.dtype), d_table.at[targets].add(-weights * x)


def chunk_loss_gpu(x: Array, targets: Array, table: Array, *, vocab_size: int, weight: float) -> ChunkLoss:
    """For GPUs and TPUs: forms d_logits = softmax - onehot in x's dtype; onehot by comparing columns with the target.

    Adding rows to the table's gradient would be atomic writes and one more pass over it; the comparison costs nothing.
    Logits are in x's dtype, their maxima and sums in float32: 200 -> 126 GB of traffic, with the larger chunk.
    """
    columns = jnp.arange(table.shape[0])[None, :]
    logits = jnp.einsum("md,vd->mv", x, table)
    wide = jnp.where(columns < vocab_size, logits.astype(jnp.float32), LEAST)
    onehot, mask = columns == targets[:, None], targets >= 0
    norm, target_logits = log_sum_exp_and_sum(wide, jnp.where(onehot, wide, 0))
    loss = weight * jnp.where(mask, norm - target_logits, 0).sum()
    d_logits = weight * (jnp.exp(wide - norm[:, None]) - onehot)
    d_logits = jnp.where(mask[:, None], d_logits, 0).astype(x.dtype)
    d_x = jnp.einsum("mv,vd->md", d_logits, table)
    return loss, d_x, jnp.einsum("mv,md->vd", d_logits, x, preferred_element_type=jnp.float32)


def log_sum_exp_and_sum(
    x: Float[Array, "M V"], y: Float[Array, "M V"]
) -> tuple[Float[Array, " M"], Float[Array, " M"]]:
    """The log-sum-exp of each row of x and the sum of each row of y, in one pass over both.

    Each part of a row has its maximum and its sum of exponents beside it (Milakov & Gimelshein 2018, online softmax).
    Maxima first and sums after them read all logits twice: 99.3 -> 96.0 GB of traffic.
    """

    def join(one: tuple[Array, Array, Array], other: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        (peak, total, y), (other_peak, other_total, other_y) = one, other
        shrunk = jnp.exp(-jnp.abs(peak - other_peak))  # of the side with the smaller maximum
        is_less = peak < other_peak
        total = jnp.where(is_less, total * shrunk + other_total, total + other_total * shrunk)
        return jnp.maximum(peak, other_peak), total, y + other_y

    nothing = (jnp.float32(LEAST), jnp.float32(0), jnp.float32(0))
    peak, total, y = jax.lax.reduce((x, jnp.ones_like(x), y), nothing, join, dimensions=(1,))
    return peak + jnp.log(total), y


def chunks(x: Float[Array, "M D"], targets: Int[Array, " M"], most: int) -> tuple[Array, Array]:
    """Returns x and targets as C equal chunks of at most `most` tokens, [C, m, D] and [C, m]; the last is padded."""
    count = -(-x.shape[0] // most)
    size = -(-x.shape[0] // count)
    missing = count * size - x.shape[0]
    x = jnp.pad(x, ((0, missing), (0, 0)))
    targets = jnp.pad(targets, (0, missing), constant_values=-1)
    return x.reshape(count, size, -1), targets.reshape(count, size)
