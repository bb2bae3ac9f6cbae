"""The training loss: mean negative log-likelihood of the next token, without ever holding all the logits."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import DropoutKeys
from jaxgpt.model.remat import Ready, identity
from jaxgpt.ops.attention import on_gpu

CHUNK = 512
"""Tokens whose logits exist at once: at a vocabulary of 50304 they take 103 MB in float32, not gigabytes."""

GPU_CHUNK = 8192
"""The same on a GPU: 824 MB in bfloat16. Each chunk reads and writes the whole gradient by the table."""


def next_token_loss(
    model: GPT, tokens: Int[Array, "B S"], keys: DropoutKeys = None, **strategy: Any
) -> Float[Array, ""]:
    """Mean loss in nats per token of predicting tokens[:, 1:] from tokens[:, :-1]. With keys, dropout.

    The strategy is what `GPT.hidden` takes beside: how parameters come, and what is computed again.
    """
    x = model.hidden(tokens[:, :-1], keys, **strategy)
    x, targets = x.reshape(-1, x.shape[-1]), tokens[:, 1:].reshape(-1)
    return cross_entropy(x, model.output_table, targets, model.config.vocab_size) / targets.size


@jax.jit
def batch_loss(model: GPT, tokens: Int[Array, "B S"]) -> Float[Array, ""]:
    """`next_token_loss` compiled, without dropout."""
    return next_token_loss(model, tokens)


def mean_loss(model: GPT, batches: Int[Array | np.ndarray, "N B S"]) -> float:
    """Mean loss in nats per token over batches of equal size."""
    return float(np.mean([batch_loss(model, tokens) for tokens in batches], dtype=np.float64))


def distillation_loss(
    teacher: GPT,
    model: GPT,
    tokens: Int[Array, "B S"],
    keys: DropoutKeys = None,
    *,
    teacher_ready: Ready = identity,
    **strategy: Any,
) -> Float[Array, ""]:
    """Mean KL divergence of the model's next-token distribution from the teacher's (Hinton et al. 2015, section 2).

    In nats per token; zero where the two agree. The teacher gets no gradient.
    """

    @jax.checkpoint  # makes the chunk's logits again in the backward pass, so that only one chunk of them exists
    def divergence(chunk: tuple[Array, Array, Array]) -> Array:
        theirs, ours = (
            jax.nn.log_softmax(m.logits(x[None])[0]) for m, x in zip((teacher, model), chunk[:2], strict=True)
        )
        return jnp.where(chunk[2] >= 0, (jnp.exp(theirs) * (theirs - ours)).sum(axis=1), 0).sum()

    teacher = jax.lax.stop_gradient(teacher)
    inputs, count = tokens[:, :-1], tokens[:, 1:].size
    theirs, ours = teacher.hidden(inputs, ready=teacher_ready), model.hidden(inputs, keys, **strategy)
    marks = jnp.zeros(count, jnp.int32)
    theirs, marks = _chunks(theirs.reshape(count, -1), marks, CHUNK)
    ours, _ = _chunks(ours.reshape(count, -1), marks.reshape(-1)[:count], CHUNK)
    return jax.lax.map(divergence, (theirs, ours, marks)).sum() / count


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(
    x: Float[Array, "M D"], table: Float[Array, "V D"], targets: Int[Array, " M"], vocab_size: int
) -> Float[Array, ""]:
    """Summed negative log-likelihood of `targets` under softmax(x tableT), in nats.

    Rows of the table past vocab_size are padding: they take no probability and no gradient. A target below 0 counts
    for nothing. Logits are computed once, and only one chunk of them exists at a time: the forward pass computes the
    gradient as well.
    """
    form, rows, size = _form(vocab_size)
    narrow = table[:rows].astype(x.dtype)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + form(*chunk, narrow)[0], None

    return jax.lax.scan(add, _zero(x), _chunks(x, targets, size))[0]


def _forward(x: Array, table: Array, targets: Array, vocab_size: int) -> tuple[Array, tuple[Array, Array]]:
    form, rows, size = _form(vocab_size)
    narrow = table[:rows].astype(x.dtype)

    def add(sums: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        loss, d_x, d_table = form(*chunk, narrow)
        return (sums[0] + loss, sums[1] + d_table), d_x

    start = (_zero(x), jnp.zeros_like(narrow, jnp.float32))
    (total, d_table), d_x = jax.lax.scan(add, start, _chunks(x, targets, size))
    d_table = jnp.pad(d_table.astype(table.dtype), ((0, table.shape[0] - narrow.shape[0]), (0, 0)))
    return total, (d_x.reshape(-1, x.shape[1])[: x.shape[0]], d_table)


def _backward(vocab_size: int, gradients: tuple[Array, Array], d_loss: Array) -> tuple[Array, Array, None]:
    del vocab_size  # custom_vjp hands it over all the same
    d_x, d_table = gradients
    return (d_x * d_loss).astype(d_x.dtype), d_table * d_loss, None  # d_loss in bfloat16 would be off by up to 0.4 %


cross_entropy.defvjp(_forward, _backward)


def _zero(like: Array) -> Float[Array, ""]:
    """0, as local to a device as another array is."""
    return jnp.zeros_like(like, jnp.float32, shape=())


ChunkLoss = tuple[Float[Array, ""], Float[Array, "M D"], Float[Array, "V D"]]
"""The summed loss of M tokens, and its gradients by x and by the table."""


def _form(vocab_size: int) -> tuple[Callable[..., ChunkLoss], int | None, int]:
    """How a chunk is computed, how many rows of the table it takes (None: all), and how many tokens it has."""
    return (
        (partial(chunk_loss_gpu, vocab_size=vocab_size), None, GPU_CHUNK)
        if on_gpu()
        else (chunk_loss_cpu, vocab_size, CHUNK)
    )


def chunk_loss_cpu(x: Array, targets: Array, table: Array) -> ChunkLoss:
    """For CPUs. The gradient by the logits, softmax - onehot, is never made; the table has no rows of padding.

    What it is multiplied with is split: the softmax part is a product with the exponents, which the loss needs anyway,
    and the onehot part picks or adds single rows. So logits are gone over twice: 0.94 of the time of forming
    softmax - onehot, on two CPU cores at a vocabulary of 50304. A mask over the padding was one time more, 7 % of the
    quickstart step.
    """
    logits = jnp.einsum("md,vd->mv", x, table, preferred_element_type=jnp.float32)
    peak = logits.max(axis=1)
    exponents = jnp.exp(logits - peak[:, None])
    total = exponents.sum(axis=1)
    real, picked = targets >= 0, table[targets]
    hit = jnp.einsum("md,md->m", x, picked, preferred_element_type=jnp.float32)
    loss = jnp.where(real, jnp.log(total) + peak - hit, 0).sum()
    exponents = exponents.astype(x.dtype)
    scale = jnp.where(real, 1 / total, 0)[:, None]
    d_x = scale * jnp.einsum("mv,vd->md", exponents, table, preferred_element_type=jnp.float32)
    d_x = d_x - jnp.where(real[:, None], picked, 0)
    scaled = (scale * x).astype(x.dtype)
    d_table = jnp.einsum("mv,md->vd", exponents, scaled, preferred_element_type=jnp.float32)
    return loss, d_x.astype(x.dtype), d_table.at[targets].add(-jnp.where(real[:, None], x, 0))


def chunk_loss_gpu(x: Array, targets: Array, table: Array, vocab_size: int) -> ChunkLoss:
    """For GPUs. softmax - onehot is made, in x's type, by comparing each column's number with the target.

    Rows added to the table's gradient would be atomic writes and a pass over it; the mask costs nothing. Logits are
    kept in x's type, their maxima and sums in float32: 200 -> 126 GB of traffic, with the larger chunk.
    """
    columns = jnp.arange(table.shape[0])[None, :]
    logits = jnp.einsum("md,vd->mv", x, table)
    wide = jnp.where(columns < vocab_size, logits.astype(jnp.float32), -jnp.inf)
    hit, real = columns == targets[:, None], targets >= 0
    norm = jax.nn.logsumexp(wide, axis=1)
    loss = jnp.where(real, norm - jnp.where(hit, wide, 0).sum(axis=1), 0).sum()
    d_logits = jnp.exp(wide - norm[:, None]) - hit
    d_logits = jnp.where(real[:, None], d_logits, 0).astype(x.dtype)
    d_x = jnp.einsum("mv,vd->md", d_logits, table)
    return loss, d_x, jnp.einsum("mv,md->vd", d_logits, x, preferred_element_type=jnp.float32)


def _chunks(x: Array, targets: Array, at_once: int) -> tuple[Array, Array]:
    """Cut into equal chunks of at most `at_once` tokens; the last is filled up with tokens that do not count."""
    count = -(-x.shape[0] // at_once)
    size = -(-x.shape[0] // count)
    missing = count * size - x.shape[0]
    x = jnp.pad(x, ((0, missing), (0, 0)))
    targets = jnp.pad(targets, (0, missing), constant_values=-1)
    return x.reshape(count, size, -1), targets.reshape(count, size)
