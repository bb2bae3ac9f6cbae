"""One update of the weights: a pure function from state to state."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.stages import Wrapped
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT, abstract_model
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.optimizer import make_optimizer, schedule

Loss = Callable[[GPT, Int[Array, "B S"], Array | None], Float[Array, ""]]


class TrainState(NamedTuple):
    """Everything that changes in training."""

    step: Int[Array, ""]
    """Updates done."""
    model: GPT
    moments: optax.OptState


class Metrics(NamedTuple):
    """What a step tells."""

    loss: Float[Array, ""]
    """Nats per token, on the batch, before the update."""
    grad_norm: Float[Array, ""]
    """Before clipping."""
    learning_rate: Float[Array, ""]


def initial_state(config: TrainConfig) -> TrainState:
    """Fresh weights from the seed, no updates done."""
    # At the usual level the random numbers of a small model take three times as long to compile, and run no faster.
    options = {"xla_backend_optimization_level": 1}
    return jax.jit(partial(_fresh, config), compiler_options=options)(jax.random.key(config.seed))


def abstract_state(config: TrainConfig) -> TrainState:
    """The state's shapes without its numbers."""
    return jax.eval_shape(partial(_fresh, config), jax.random.key(config.seed))


def _fresh(config: TrainConfig, key: Array) -> TrainState:
    model = GPT(config.model, rngs=nnx.Rngs(key))
    moments = make_optimizer(config.optimizer, config.steps).init(model)
    return TrainState(jnp.int32(0), model, moments)


def make_step(config: TrainConfig) -> Wrapped:
    """The compiled step; the state given to it is used up."""
    return jax.jit(partial(train_step, config=config), donate_argnums=0)


def train_step(
    state: TrainState, tokens: Int[Array, "B S"], teacher: GPT | None = None, *, config: TrainConfig
) -> tuple[TrainState, Metrics]:
    """The gradient of the mean loss over the batch, and one AdamW update with it. With a teacher, distillation."""
    tx = make_optimizer(config.optimizer, config.steps)
    loss_of = next_token_loss if teacher is None else partial(distillation_loss, teacher)
    key = _dropout_key(config, state.step)
    loss, grads = loss_and_grads(state.model, tokens, key, config.microbatches, loss_of)
    updates, moments = tx.update(grads, state.moments, state.model)
    model = optax.apply_updates(state.model, updates)
    metrics = Metrics(loss, optax.tree.norm(grads), schedule(config.optimizer, config.steps)(state.step))
    return TrainState(state.step + 1, model, moments), metrics


def loss_and_grads(
    model: GPT, tokens: Int[Array, "B S"], key: Array | None, microbatches: int, loss_of: Loss = next_token_loss
) -> tuple[Float[Array, ""], GPT]:
    """Mean loss over the batch and its gradient, summed in float32 over microbatches computed one after another."""
    if microbatches == 1:
        return jax.value_and_grad(loss_of)(model, tokens, key)

    def add(sums: tuple[Array, GPT], piece: tuple[Array, Array]) -> tuple[tuple[Array, GPT], None]:
        index, part = piece
        part_key = None if key is None else jax.random.fold_in(key, index)
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss_of)(model, part, part_key)), None

    pieces = tokens.reshape(microbatches, -1, tokens.shape[1])
    zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, model))
    sums, _ = jax.lax.scan(add, zeros, (jnp.arange(microbatches), pieces))
    return jax.tree.map(lambda total: total / microbatches, sums)


def _dropout_key(config: TrainConfig, step: Int[Array, ""]) -> Array | None:
    """A function of (seed, step), so that a resumed run drops what it would have dropped."""
    if config.model.dropout == 0.0:
        return None
    return jax.random.fold_in(jax.random.key(config.seed), step)


def describe_attention(config: GPTConfig) -> str:
    """Which backend runs in which layers, for people."""
    names = [block.attn.backend(config.context_length, config.dropout) for block in abstract_model(config).blocks]
    return ", ".join(f"{name} in {names.count(name)} layers" for name in sorted(set(names)))
