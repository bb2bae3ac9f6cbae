"""One update of the weights: a pure function from state to state."""

import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jax.stages import Compiled, Wrapped
from jaxtyping import Bool, Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.model.parameters import abstract_model
from jaxgpt.ops.attention import select_backend
from jaxgpt.ops.dropout import DropoutKey, key_per_row
from jaxgpt.ops.platform import target_platform
from jaxgpt.parallel.sharding import batch_sharding, shardings, state_specs
from jaxgpt.parallel.value_and_grad import value_and_grad
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.optimizer import clipped, make_optimizer, schedule


class TrainState(NamedTuple):
    """Everything that changes in training."""

    step: Int[Array, ""]
    """Updates done, skipped ones included."""
    data_offset: Int[Array, ""]
    """Batches that a rewind left unread: the next batch is number step + passed_over."""
    skipped: Int[Array, ""]
    """Updates that were not made, because of their numbers."""
    loss_ema: Float[Array, ""]
    """Running mean of the loss, over about the last 100 steps; NaN before the first."""
    model: GPT
    opt_state: optax.OptState


class Metrics(NamedTuple):
    """What a step tells."""

    loss: Float[Array, ""]
    """Nats per token, on the batch, before the update."""
    grad_norm: Float[Array, ""]
    """Before clipping."""
    learning_rate: Float[Array, ""]
    skipped: Int[Array, ""]
    """Updates not made so far."""
    data_offset: Int[Array, ""]
    """Batches that rewinds left unread so far."""
    bad: Bool[Array, ""]
    """Whether this step's loss or gradient is not finite, or the loss jumped by more than the config allows."""


def initial_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Fresh weights from the seed, no updates done. Each device makes only what it holds."""
    # At the usual level the random numbers of a small model take three times as long to compile, and run no faster.
    options = {"xla_backend_optimization_level": 1}
    make = jax.jit(partial(_fresh, config), compiler_options=options, out_shardings=state_shardings(config, mesh))
    return make(jax.random.key(config.seed))


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """The state's shapes and where they live, without its numbers."""
    return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), _shapes(config), state_shardings(config, mesh))


def abstract_batch(config: TrainConfig, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape of a step's tokens, and where they live."""
    shape = (config.batch_size, config.model.context_length + 1)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))


def state_shardings(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Where each leaf of the state lives."""
    return shardings(state_specs(_shapes(config), mesh), mesh)


@cache
def _shapes(config: TrainConfig) -> TrainState:
    """Read only: a start asks for them several times."""
    return jax.eval_shape(partial(create_state, config), abstract_model(config.model))


def _fresh(config: TrainConfig, key: Array) -> TrainState:
    return create_state(config, GPT(config.model, rngs=nnx.Rngs(key)))


def create_state(config: TrainConfig, model: GPT) -> TrainState:
    """A model before its first update."""
    opt_state = make_optimizer(config.optimizer, config.steps).init(model)
    return TrainState(jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.float32(jnp.nan), model, opt_state)


def make_step(config: TrainConfig, mesh: Mesh) -> Wrapped:
    """The compiled step; the state given to it is used up."""
    step = partial(train_step, config=config, mesh=mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(state_shardings(config, mesh), None))


def compile_step(
    config: TrainConfig,
    mesh: Mesh,
    *arguments: Any,
    limit: int | None = None,
    options: dict[str, Any] | None = None,
) -> tuple[Compiled, str]:
    """The step compiled for these arguments, or their shapes, and its remat: `auto` decided by bytes per device."""
    if config.remat != "auto":
        return make_step(config, mesh).lower(*arguments).compile(options), config.remat
    none, block = (dataclasses.replace(config, remat=remat) for remat in ("none", "block"))
    compiled, remat = compile_step(none, mesh, *arguments, options=options)
    if limit is None or memory_needed(compiled) <= limit:
        return compiled, remat
    del compiled
    return compile_step(block, mesh, *arguments, options=options)


def memory_needed(compiled: Compiled) -> int:
    """Bytes on each device while a program runs: what it is given, makes, and needs between."""
    memory: Any = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return kept + memory.temp_size_in_bytes


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes of each device that JAX may use. None: not known, such as on a CPU."""
    device = mesh.local_mesh.devices.flat[0]
    return (device.memory_stats() or {}).get("bytes_limit")


def train_step(
    state: TrainState, tokens: Int[Array, "B S"], teacher: GPT | None = None, *, config: TrainConfig, mesh: Mesh
) -> tuple[TrainState, Metrics]:
    """The gradient of the mean loss over the batch, and one AdamW update with it. With a teacher, distillation."""
    tx = make_optimizer(config.optimizer, config.steps)
    keys = dropout_keys(config, state.step, tokens.shape[0])
    gradient = value_and_grad(
        next_token_loss if teacher is None else distillation_loss,
        mesh,
        microbatches=config.microbatches,
        zero=config.zero,
        remat="none" if config.remat == "auto" else config.remat,
        grad_dtype=config.grad_dtype,
    )
    teachers = () if teacher is None else (teacher,)
    (loss, _), grads, grad_norm = gradient(state.model, tokens, keys, *teachers)
    grads = clipped(grads, grad_norm, config.optimizer.clip_norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.model)
    model = optax.apply_updates(state.model, updates)

    bad = ~jnp.isfinite(loss + grad_norm)
    if config.spike is not None:
        bad = bad | (loss > state.loss_ema + config.spike)
    skipped = state.skipped
    if config.on_nonfinite == "skip":
        model, opt_state = jax.tree.map(partial(jnp.where, bad), (state.model, state.opt_state), (model, opt_state))
        skipped = skipped + bad
    usual = jnp.where(jnp.isnan(state.loss_ema), loss, 0.99 * state.loss_ema + 0.01 * loss)
    usual = jnp.where(bad, state.loss_ema, usual)
    rate = schedule(config.optimizer, config.steps)(state.step)
    metrics = Metrics(loss, grad_norm, rate, skipped, state.data_offset, bad)
    return TrainState(state.step + 1, state.data_offset, skipped, usual, model, opt_state), metrics


def dropout_keys(config: TrainConfig, step: Int[Array, ""], rows: int) -> DropoutKey:
    """A key for each sequence, from (seed, step, row) alone: neither a kill nor a mesh changes what is dropped."""
    if config.model.dropout == 0.0:
        return None
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    return key_per_row(key, rows)


def describe_attention(config: GPTConfig) -> str:
    """Which backend runs in which layers, for people."""
    names = [
        select_backend(
            config.attention,
            platform=target_platform(),
            dtype=config.dtype,
            head_dim=config.head_dim,
            window=window,
            length=config.context_length,
            dropout=config.dropout,
        )
        for window in config.windows
    ]
    return ", ".join(f"{name} in {names.count(name)} layers" for name in sorted(set(names)))
