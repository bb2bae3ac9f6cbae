"""The loss and its gradient on a mesh: what is gathered, what is scattered, what is reduced.

Each device computes its own rows of the batch. Along fsdp it holds a part of each parameter (ZeRO, Rajbhandari et al.
2020): a block's parts are gathered before use, and its gradient goes back to the parts as it is summed. Along data
devices hold the same, and gradients are summed once, after the last microbatch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import DropoutKeys
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.model.remat import Remat
from jaxgpt.parallel.gather import Gatherer
from jaxgpt.parallel.norm import global_norm
from jaxgpt.parallel.sharding import batch_axes
from jaxgpt.training.config import TrainConfig

Loss = Callable[[GPT, Int[Array, "B S"], DropoutKeys], Float[Array, ""]]


def loss_and_grads(
    model: GPT,
    tokens: Int[Array, "B S"],
    keys: DropoutKeys = None,
    teacher: GPT | None = None,
    *,
    config: TrainConfig,
    mesh: Mesh,
) -> tuple[Float[Array, ""], GPT, Float[Array, ""]]:
    """Mean loss over the batch in nats per token, its gradient, cut like the model, and the norm of that.

    With keys, dropout. With a teacher, the loss is the divergence from its distributions.
    """
    axes = batch_axes(mesh)
    gatherer = Gatherer.of(model, mesh, config.grad_dtype)
    teachers = None if teacher is None else Gatherer.of(teacher, mesh, config.grad_dtype)

    def local(
        shards: GPT, tokens: Array, keys: DropoutKeys, teacher: GPT | None
    ) -> tuple[Float[Array, ""], GPT, Float[Array, ""]]:
        """What one device does with its shards and its rows."""
        parameters, inner = jax.tree.map(partial(_pcast_varying, axes=axes), shards, gatherer.specs), gatherer
        if config.zero == 1:  # gathered before the microbatches, scattered after them
            parameters, inner = gatherer.everything(parameters)
        loss_of = make_loss(config, inner, teacher, teachers)
        total, grads = _accumulated(loss_of, parameters, tokens, keys, config.microbatches)
        if config.zero == 1:
            grads = gatherer.scattered(grads)
        grads = jax.tree.map(partial(_all_reduce, axes=axes, dtype=config.grad_dtype), grads, gatherer.specs)
        loss, grads = jax.tree.map(lambda summed: summed / mesh.size, (jax.lax.psum(total, axes), grads))
        return loss, grads, global_norm(grads, gatherer.specs)

    rows = P(axes or None)
    inputs = (gatherer.specs, rows, rows, None if teachers is None else teachers.specs)
    outputs = (P(), gatherer.specs, P())
    return jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=outputs)(model, tokens, keys, teacher)


def batch_loss(model: GPT, tokens: Int[Array, "B S"], *, config: TrainConfig, mesh: Mesh) -> Float[Array, ""]:
    """Mean loss over the batch in nats per token; no dropout, no gradient."""
    axes, gatherer = batch_axes(mesh), Gatherer.of(model, mesh, config.grad_dtype)

    def local(shards: GPT, tokens: Array) -> Array:
        loss = next_token_loss(gatherer.tables(shards), tokens, ready=gatherer.block)
        return jax.lax.psum(loss, axes) / mesh.size

    inputs = (gatherer.specs, P(axes or None))
    return jax.shard_map(local, mesh=mesh, in_specs=inputs, out_specs=P())(model, tokens)


def make_loss(config: TrainConfig, gatherer: Gatherer, teacher: GPT | None, teachers: Gatherer | None) -> Loss:
    """The loss of one microbatch on one device, of a model that the gatherer makes whole; with a teacher, its own."""
    remat: Remat = "none" if config.remat == "auto" else config.remat
    if gatherer.cuts and config.zero == 3 and remat == "none":
        remat = "parameters"  # gathered again for the backward pass
    strategy: dict[str, Any] = {"ready": gatherer.block, "remat": remat}
    loss: Callable[..., Array] = partial(next_token_loss, **strategy)
    if teacher is not None and teachers is not None:
        loss = partial(distillation_loss, teachers.tables(teacher), teacher_ready=teachers.block, **strategy)
    return lambda model, tokens, keys: loss(gatherer.tables(model), tokens, keys)


def _accumulated(
    loss: Loss, model: GPT, tokens: Array, keys: DropoutKeys, microbatches: int
) -> tuple[Float[Array, ""], GPT]:
    """The mean loss and gradient over microbatches computed one after another, summed in float32."""
    value_and_grad = jax.value_and_grad(loss)
    if microbatches == 1:
        return value_and_grad(model, tokens, keys)

    def add(sums: tuple[Array, GPT], piece: tuple[Array, DropoutKeys]) -> tuple[tuple[Array, GPT], None]:
        return jax.tree.map(jnp.add, sums, value_and_grad(model, *piece)), None

    pieces = jax.tree.map(lambda rows: rows.reshape(microbatches, -1, *rows.shape[1:]), (tokens, keys))
    zeros = (jnp.zeros_like(tokens, jnp.float32, shape=()), jax.tree.map(jnp.zeros_like, model))
    sums, _ = jax.lax.scan(add, zeros, pieces)
    return jax.tree.map(lambda total: total / microbatches, sums)


def _pcast_varying(leaf: Array, spec: P, axes: tuple[str, ...]) -> Array:
    """The same numbers, as each device's own: differentiation then leaves the reduction to us."""
    shared_over = tuple(axis for axis in axes if axis not in spec)
    return jax.lax.pcast(leaf, shared_over, to="varying") if shared_over else leaf


def _all_reduce(gradient: Array, spec: P, axes: tuple[str, ...], dtype: str) -> Array:
    """Summed over the mesh axes that do not cut it, in `dtype` between devices and float32 at rest."""
    summed_over = tuple(axis for axis in axes if axis not in spec)
    return jax.lax.psum(gradient.astype(dtype), summed_over).astype(jnp.float32) if summed_over else gradient
