"""Everything that changes in training, and where it lives."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxgpt.model.gpt import GPT
from jaxgpt.model.lora import add_adapters, has_adapters, is_adapter, merge_adapters
from jaxgpt.model.parameters import abstract_model, named_parameters, path_name, select
from jaxgpt.parallel.sharding import batch_sharding, parameter_specs, shardings
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.optimizer import make_optimizer

Optimizer: TypeAlias = optax.GradientTransformation


class TrainState(NamedTuple):
    """Everything that changes in training."""

    step: Int[Array, ""]
    """Updates done, skipped ones included."""
    data_offset: Int[Array, ""]
    """Batches that rollbacks left unread: the next batch is number step + data_offset."""
    skipped: Int[Array, ""]
    """Updates that were not made, because loss or gradient was not finite or the loss jumped."""
    loss_ema: Float[Array, ""]
    """Running mean of the loss, over about the last 100 steps; NaN before the first."""
    model: GPT
    opt_state: optax.OptState


def create_state(config: TrainConfig, model: GPT, optimizer: Optimizer | None = None) -> TrainState:
    """A model before its first update; with `config.lora` it gets adapters, and they alone an optimizer's state."""
    model = with_adapters(config, model)
    optimizer = optimizer or make_optimizer(config.optimizer, config.steps)
    opt_state = optimizer.init(select(model, trained(config)))  # type: ignore[arg-type]
    return TrainState(jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.float32(jnp.nan), model, opt_state)


def with_adapters(config: TrainConfig, model: GPT) -> GPT:
    """The model as it is trained: with `config.lora` it has adapters, drawn from the seed."""
    if config.lora is None:
        return model
    alpha = 2.0 * config.lora if config.lora_alpha is None else config.lora_alpha
    return add_adapters(model, config.lora, alpha, rngs=nnx.Rngs(config.seed))


def trained(config: TrainConfig) -> Callable[[str], bool] | None:
    """Which parameters are trained, by their path. None: all."""
    return None if config.lora is None else is_adapter


def abstract_trained_model(config: TrainConfig) -> GPT:
    """The shapes of the model as it is trained."""
    return jax.eval_shape(partial(with_adapters, config), abstract_model(config.model))


def merged(model: GPT, mesh: Mesh) -> GPT:
    """A trained model without adapters: each is merged into the weights it was trained on. Others are as they are."""
    if not has_adapters(model):
        return model
    like = jax.eval_shape(merge_adapters, model)
    return jax.jit(merge_adapters, out_shardings=shardings(parameter_specs(like, mesh), mesh))(model)


def initial_state(config: TrainConfig, mesh: Mesh, optimizer: Optimizer | None = None) -> TrainState:
    """Fresh weights from the seed, no updates done. Each device makes only what it holds."""

    def draw(key: Array) -> TrainState:
        return create_state(config, GPT(config.model, rngs=nnx.Rngs(key)), optimizer)

    # At the usual level the random numbers of a small model take three times as long to compile, and run no faster.
    options = {"xla_backend_optimization_level": 1}
    make = jax.jit(draw, compiler_options=options, out_shardings=state_shardings(config, mesh, optimizer))
    return make(jax.random.key(config.seed))


def state_from(config: TrainConfig, mesh: Mesh, model: GPT, optimizer: Optimizer | None = None) -> TrainState:
    """A state with these weights, which are sharded already and become the state's own."""
    places = state_shardings(config, mesh, optimizer)
    narrowed = config.lora is not None and config.model.dtype != "float32"  # then no array keeps its bytes
    donated = () if narrowed else 0
    make = jax.jit(partial(create_state, config, optimizer=optimizer), out_shardings=places, donate_argnums=donated)
    return make(model)


def abstract_state(config: TrainConfig, mesh: Mesh, optimizer: Optimizer | None = None) -> TrainState:
    """The state's shapes and where they live, without its numbers."""
    shapes = _shapes(config, optimizer)
    return jax.tree.map(
        lambda leaf, place: leaf.update(sharding=place), shapes, state_shardings(config, mesh, optimizer)
    )


def abstract_batch(config: TrainConfig, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """The shape of a step's tokens, and where they live."""
    shape = (config.batch_size, config.model.context_length + 1)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))


def state_shardings(config: TrainConfig, mesh: Mesh, optimizer: Optimizer | None = None) -> TrainState:
    """Where each leaf of the state lives."""
    return shardings(state_specs(_shapes(config, optimizer), mesh), mesh)


def state_specs(state: TrainState, mesh: Mesh) -> TrainState:
    """How each leaf is sharded: like the parameter whose path ends its own and whose shape it has; else replicated.

    So the state of any optax transformation is sharded, whatever it is made of.
    """
    shapes, specs = named_parameters(state.model), named_parameters(parameter_specs(state.model, mesh))

    def spec(path: tuple[Any, ...], leaf: Any) -> P:
        words = path_name(path).split(".")
        for start in range(len(words)):
            name = ".".join(words[start:])
            if name in shapes:
                return specs[name] if leaf.shape == shapes[name].shape else P()
        return P()

    return jax.tree_util.tree_map_with_path(spec, state)


@cache
def _shapes(config: TrainConfig, optimizer: Optimizer | None) -> TrainState:
    """Read only: a start asks for them several times."""
    return jax.eval_shape(partial(create_state, config, optimizer=optimizer), abstract_model(config.model))
