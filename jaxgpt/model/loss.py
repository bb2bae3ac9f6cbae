"""The training loss: mean negative log-likelihood of the next token, without ever holding all the logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.model.gpt import GPT

CHUNK = 512
"""Tokens whose logits exist at once: at a vocabulary of 50304 they take 103 MB in float32, not gigabytes."""


def next_token_loss(model: GPT, tokens: Int[Array, "B S"], key: Array | None = None) -> Float[Array, ""]:
    """Mean loss in nats per token of predicting tokens[:, 1:] from tokens[:, :-1]. With a key, dropout."""
    x = model.hidden(tokens[:, :-1], key)
    x, targets = x.reshape(-1, x.shape[-1]), tokens[:, 1:].reshape(-1)
    return cross_entropy(x, model.output_table, targets, model.config.vocab_size) / targets.size


@jax.jit
def batch_loss(model: GPT, tokens: Int[Array, "B S"]) -> Float[Array, ""]:
    """`next_token_loss` compiled, without dropout."""
    return next_token_loss(model, tokens)


def mean_loss(model: GPT, batches: Int[Array | np.ndarray, "N B S"]) -> float:
    """Mean loss in nats per token over batches of equal size."""
    return float(np.mean([batch_loss(model, tokens) for tokens in batches], dtype=np.float64))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(
    x: Float[Array, "M D"], table: Float[Array, "V D"], targets: Int[Array, " M"], vocab_size: int
) -> Float[Array, ""]:
    """Summed negative log-likelihood of `targets` under softmax(x tableT), in nats.

    Rows of the table past vocab_size are padding: they take no probability and no gradient.
    The gradient is computed along with the loss, chunk by chunk, since softmax - onehot is at hand then: logits are
    computed once, and only one chunk of them exists at a time.
    """
    table = table.astype(x.dtype)

    def chunk_loss(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _chunk(*chunk, table, vocab_size)[0], None

    return jax.lax.scan(chunk_loss, jnp.float32(0), _chunks(x, targets))[0]


def _forward(x: Array, table: Array, targets: Array, vocab_size: int) -> tuple[Array, tuple[Array, Array]]:
    narrow = table.astype(x.dtype)

    def chunk_gradient(carry: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        total, d_table = carry
        loss, d_logits = _chunk(*chunk, narrow, vocab_size)
        d_logits = d_logits.astype(x.dtype)
        d_table = d_table + jnp.einsum("mv,md->vd", d_logits, chunk[0], preferred_element_type=jnp.float32)
        return (total + loss, d_table), d_logits @ narrow

    start = (jnp.float32(0), jnp.zeros(table.shape, jnp.float32))
    (total, d_table), d_x = jax.lax.scan(chunk_gradient, start, _chunks(x, targets))
    return total, (d_x.reshape(-1, x.shape[1])[: x.shape[0]], d_table.astype(table.dtype))


def _backward(vocab_size: int, gradients: tuple[Array, Array], d_loss: Array) -> tuple[Array, Array, None]:
    del vocab_size  # custom_vjp hands it over all the same
    d_x, d_table = gradients
    return d_x * d_loss.astype(d_x.dtype), d_table * d_loss, None


cross_entropy.defvjp(_forward, _backward)


def _chunk(x: Array, targets: Array, table: Array, vocab_size: int) -> tuple[Array, Array]:
    """The summed loss of one chunk and its gradient by the logits. A target below 0 counts for nothing."""
    logits = jnp.einsum("md,vd->mv", x, table, preferred_element_type=jnp.float32)
    columns = jnp.arange(table.shape[0])[None, :]
    logits = jnp.where(columns < vocab_size, logits, -jnp.inf)
    peak = logits.max(axis=1, keepdims=True)
    exponents = jnp.exp(logits - peak)
    total = exponents.sum(axis=1, keepdims=True)
    hit, real = columns == targets[:, None], (targets >= 0)[:, None]
    losses = jnp.log(total) + peak - jnp.where(hit, logits, 0).sum(axis=1, keepdims=True)
    d_logits = jnp.where(real, exponents / total - hit, 0)
    return jnp.where(real, losses, 0).sum(), d_logits


def _chunks(x: Array, targets: Array) -> tuple[Array, Array]:
    """Cut into chunks of at most CHUNK tokens, of equal size; the last is filled up with tokens that do not count."""
    count = -(-x.shape[0] // CHUNK)
    size = -(-x.shape[0] // count)
    missing = count * size - x.shape[0]
    x = jnp.pad(x, ((0, missing), (0, 0)))
    targets = jnp.pad(targets, (0, missing), constant_values=-1)
    return x.reshape(count, size, -1), targets.reshape(count, size)
