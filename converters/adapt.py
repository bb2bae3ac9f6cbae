"""Changes to a model's config that its weights follow: other heads, other positions, another vocabulary."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from converters.kv_heads import KV_INITS, KVInit, pool_kv_heads, repeat_kv_heads
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.lora import merge_adapters
from jaxgpt.model.parameters import abstract_model, named_parameters

Parameters = dict[str, Array]

FREE = frozenset(
    {"dtype", "dropout", "attention", "scan_layers", "window", "rope_theta", "activation", "layer_norm_epsilon"}
    | {"scale_attention_by_layer"}
)
"""Fields that no weight depends on."""


def adapt_weights(model: GPT, *, kv_init: KVInit = "mean", **changes: Any) -> GPT:
    """The model under a changed config, its weights made to fit; what it computes then is close, or is uptrained.

    num_kv_heads: fewer key-value heads are pooled from groups as kv_init says, more are copies. position: the learned
    table is dropped. context_length, vocab_size: rows past the new size are dropped. tie_embeddings=False: the head
    starts as a copy. bias=True: zeros. Other fields in FREE need no change of weights.
    Raises UserError on any other change, and on one that needs weights which the model does not have.
    """
    config = GPTConfig.from_dict(model.config.to_dict() | changes)
    if kv_init not in KV_INITS:
        raise UserError(f"kv_init={kv_init!r} is not one of {', '.join(KV_INITS)}")
    for name in changes:
        if getattr(config, name) != getattr(model.config, name):
            _check(name, model.config, config)
    parameters = _with_kv_heads(named_parameters(merge_adapters(model)), model.config, config, kv_init)
    if not config.tie_embeddings and model.config.tie_embeddings:
        parameters["head"] = parameters["embed"]
    if config.vocab_size != model.config.vocab_size:
        parameters |= {name: _cut(parameters[name], config) for name in ("embed", "head") if name in parameters}

    def parameter(name: str, like: jax.ShapeDtypeStruct) -> Array:
        if name not in parameters:  # a bias
            return jnp.zeros(like.shape, parameters["embed"].dtype)
        return parameters[name][: like.shape[0]] if name == "position" else parameters[name]

    return model_from_parameters(config, parameter)


def model_from_parameters(config: GPTConfig, parameter: Callable[[str, jax.ShapeDtypeStruct], Array]) -> GPT:
    """A model of this config whose parameters are made one by one, from their name and shape."""
    like = abstract_model(config)
    leaves = [parameter(name, shape) for name, shape in named_parameters(like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _check(name: str, old: GPTConfig, new: GPTConfig) -> None:
    """Raise UserError where no weights follow this change."""
    before, after = getattr(old, name), getattr(new, name)
    reason = {
        "num_kv_heads": _heads_reason(old, new),
        "position": "there is no table of learned positions to take" if new.position == "learned" else None,
        "context_length": "there are no positions past the old length"
        if new.context_length > old.context_length and old.position == new.position == "learned"
        else None,
        "vocab_size": "there are no rows for new tokens" if new.vocab_size > old.vocab_size else None,
        "tie_embeddings": "the head is another table than the embedding" if new.tie_embeddings else None,
        "bias": "the biases would be lost" if not new.bias else None,
    }.get(name, None if name in FREE else "weights of that shape do not exist")
    if reason:
        raise UserError(f"{name}={after!r} cannot come from weights with {name}={before!r}: {reason}; leave it out")


def _heads_reason(old: GPTConfig, new: GPTConfig) -> str | None:
    few, many = sorted((old.kv_heads, new.kv_heads))
    return f"{many} heads do not make {few} equal groups" if many % few else None


def _with_kv_heads(parameters: Parameters, old: GPTConfig, new: GPTConfig, kv_init: KVInit) -> Parameters:
    if new.kv_heads == old.kv_heads:
        return dict(parameters)
    if new.kv_heads > old.kv_heads:
        return {name: repeat_kv_heads(name, value, new.kv_heads // old.kv_heads) for name, value in parameters.items()}
    if kv_init == "svd" and old.position == "rotary":
        raise UserError("kv_init='svd' mixes the pairs that rotary positions turn; use mean or first")
    changed = dict(parameters)
    for layer in range(old.num_layers):
        prefix = f"blocks.{layer}.attn."
        attn = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
        changed |= {prefix + name: value for name, value in pool_kv_heads(attn, new.kv_heads, kv_init).items()}
    return changed


def _cut(table: Array, config: GPTConfig) -> Array:
    """A table without the rows of tokens that are gone; its padding rows are zero."""
    return jnp.pad(table[: config.vocab_size], ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
