"""Changes to a model that keep what it computes, or give it another attention."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT, abstract_model, named_parameters


def rebuilt(config: GPTConfig, parameter: Callable[[str, jax.ShapeDtypeStruct], Array]) -> GPT:
    """A model of this config whose parameters are made one by one, from their name and shape."""
    like = abstract_model(config)
    leaves = [parameter(name, shape) for name, shape in named_parameters(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def with_biases(model: GPT) -> GPT:
    """The same model with biases of zero, where it has none."""
    if model.config.bias:
        return model
    have = named_parameters(model)
    config = dataclasses.replace(model.config, bias=True)
    dtype = model.embed[...].dtype
    return rebuilt(config, lambda name, like: have[name] if name in have else jnp.zeros(like.shape, dtype))


def with_kv_heads_repeated(model: GPT) -> GPT:
    """The same model with a key-value head for each query head: those of a group are copies."""
    config = dataclasses.replace(model.config, num_kv_heads=None)
    have, copies = named_parameters(model), config.num_heads // model.config.kv_heads

    def parameter(name: str, like: jax.ShapeDtypeStruct) -> Array:
        shared = have[name].shape != like.shape
        return jnp.repeat(have[name], copies, axis=-2) if shared else have[name]

    return model if copies == 1 else rebuilt(config, parameter)
