"""One update of the weights: a pure function from state to state."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jax.stages import Compiled, Wrapped
from jaxtyping import Bool, Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.model.parameters import abstract_model, combine, path_name, select
from jaxgpt.ops.attention import select_backend
from jaxgpt.ops.dropout import DropoutKey, key_per_row
from jaxgpt.ops.platform import cpu_compiler_options, target_platform
from jaxgpt.parallel.combine import combine_thresholds
from jaxgpt.parallel.value_and_grad import value_and_grad
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.memory import memory_limit
from jaxgpt.training.optimizer import clip, make_optimizer, schedule
from jaxgpt.training.state import (
    Optimizer,
    TrainState,
    abstract_batch,
    abstract_state,
    create_state,
    initial_state,
    state_shardings,
    trained,
)

__all__ = [
    "Metrics",
    "TrainState",
    "abstract_batch",
    "abstract_state",
    "compile_step",
    "create_state",
    "initial_state",
    "make_step",
    "memory_limit",
    "memory_needed",
    "state_shardings",
    "train_step",
]

Loss = Callable[..., Any]
"""loss(model, tokens, key) -> a scalar, or a scalar and a dict of scalars. With a teacher, it comes after the key."""


class Metrics(NamedTuple):
    """The numbers of a step."""

    loss: Float[Array, ""]
    """The mean over the batch, before the update; of the default loss, nats per token."""
    grad_norm: Float[Array, ""]
    """Before clipping."""
    learning_rate: Float[Array, ""] | None
    """Of this update. None: an optimizer of your own, which does not tell it by optax.inject_hyperparams."""
    skipped: Int[Array, ""]
    """Updates not made so far."""
    data_offset: Int[Array, ""]
    """Batches that rollbacks left unread so far."""
    nonfinite_or_spike: Bool[Array, ""]
    """Whether this step's loss or gradient is not finite, or the loss jumped by more than the config allows."""
    aux: dict[str, Float[Array, ""]] = {}  # noqa: RUF012  a NamedTuple's default
    """What the loss returned beside the loss: means over microbatches and devices."""


def make_step(
    config: TrainConfig,
    mesh: Mesh,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    end_of_text: int | None = None,
) -> Wrapped:
    """The step under jit; the state given to it is donated."""
    step = partial(train_step, config=config, mesh=mesh, optimizer=optimizer, loss=loss, end_of_text=end_of_text)
    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings(config, mesh, optimizer), None))


def compile_step(
    config: TrainConfig,
    mesh: Mesh,
    *arguments: Any,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    end_of_text: int | None = None,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[Compiled, str]:
    """The step compiled for these arguments, or their shapes, and its remat: `auto` decided by bytes per device."""
    if config.remat != "auto":
        together: dict[str, Any] = combine_thresholds(abstract_model(config.model), mesh, config.grad_dtype)
        lowered = make_step(config, mesh, optimizer, loss, end_of_text).lower(*arguments)
        return lowered.compile({**cpu_compiler_options(), **together, **(options or {})}), config.remat
    none, block = (dataclasses.replace(config, remat=remat) for remat in ("none", "block"))
    rule: dict[str, Any] = {"optimizer": optimizer, "loss": loss, "end_of_text": end_of_text, "options": options}
    compiled, remat = compile_step(none, mesh, *arguments, **rule)
    if limit is None or memory_needed(compiled) <= limit:
        return compiled, remat
    del compiled
    return compile_step(block, mesh, *arguments, **rule)


def train_step(
    state: TrainState,
    tokens: Int[Array, "B S"],
    teacher: GPT | None = None,
    *,
    config: TrainConfig,
    mesh: Mesh,
    optimizer: Optimizer | None = None,
    loss: Loss | None = None,
    end_of_text: int | None = None,
) -> tuple[TrainState, Metrics]:
    """The gradient of the mean loss over the batch, and one update with it. With a teacher, distillation.

    With `end_of_text`, the token where documents begin, jaxgpt's own losses predict none from another.
    """
    loss = loss or partial(next_token_loss if teacher is None else distillation_loss, end_of_text=end_of_text)
    frozen = () if teacher is None else (teacher,)
    key = dropout_keys(config, state.step, tokens.shape[0])
    remat = "none" if config.remat == "auto" else config.remat
    strategy: dict[str, Any] = {"zero": config.zero, "remat": remat, "grad_dtype": config.grad_dtype}
    strategy |= {"microbatches": config.microbatches, "trained": trained(config)}
    gradient = value_and_grad(loss, mesh, **strategy)
    (value, aux), grads, grad_norm = gradient(state.model, tokens, key, *frozen)
    model, opt_state = _update(state, grads, grad_norm, config, optimizer, mesh)
    rate = _learning_rate(state, opt_state, config, optimizer)

    bad = ~jnp.isfinite(value + grad_norm)
    if config.spike is not None:
        bad = bad | (value > state.loss_ema + config.spike)
    skipped = state.skipped
    if config.on_nonfinite == "skip":
        model, opt_state = jax.tree.map(partial(jnp.where, bad), (state.model, state.opt_state), (model, opt_state))
        skipped = skipped + bad
    ema = jnp.where(jnp.isnan(state.loss_ema), value, 0.99 * state.loss_ema + 0.01 * value)
    ema = jnp.where(bad, state.loss_ema, ema)
    metrics = Metrics(value, grad_norm, rate, skipped, state.data_offset, bad, aux)
    return TrainState(state.step + 1, state.data_offset, skipped, ema, model, opt_state), metrics


def _update(
    state: TrainState,
    grads: GPT,
    grad_norm: Float[Array, ""],
    config: TrainConfig,
    optimizer: Optimizer | None,
    mesh: Mesh,
) -> tuple[GPT, optax.OptState]:
    """The model and the optimizer's state after the update. An optimizer of one's own gets the gradient unclipped."""
    if optimizer is None:
        optimizer = make_optimizer(config.optimizer, config.steps, mesh)
        grads = clip(grads, grad_norm, config.optimizer.clip_norm)
    parameters: Any = select(state.model, trained(config))
    updates, opt_state = optimizer.update(grads, state.opt_state, parameters)  # type: ignore[arg-type]
    return combine(optax.apply_updates(parameters, updates), state.model), opt_state  # type: ignore[arg-type]


def _learning_rate(
    state: TrainState, updated: optax.OptState, config: TrainConfig, optimizer: Optimizer | None
) -> Float[Array, ""] | None:
    """The rate of this update: the schedule counts the updates that were made, so skipped ones do not move it."""
    if optimizer is None:
        return schedule(config.optimizer, config.steps)(state.step - state.skipped)
    leaves = jax.tree_util.tree_leaves_with_path(updated)
    told = [leaf for path, leaf in leaves if path_name(path).endswith("hyperparams.learning_rate")]
    return jnp.float32(told[0]) if told else None


def dropout_keys(config: TrainConfig, step: Int[Array, ""], rows: int) -> DropoutKey:
    """A key for each sequence, from (seed, step, row) alone: neither a kill nor a mesh changes what is dropped."""
    if config.model.dropout == 0.0:
        return None
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return key_per_row(key, rows)


def describe_attention(config: GPTConfig, *, documents: bool = False) -> str:
    """Which attention backend runs, for people."""
    return select_backend(
        config.attention,
        platform=target_platform(),
        dtype=config.dtype,
        head_dim=config.head_dim,
        length=config.context_length,
        dropout=config.dropout,
        documents=documents,
    )
