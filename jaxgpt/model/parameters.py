"""A model's parameters by name, and its shapes without numbers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
from flax import nnx

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT


def abstract_model(config: GPTConfig) -> GPT:
    """The model's shapes without its numbers.

    >>> abstract_model(GPTConfig.preset("gpt2")).embed.shape
    (50304, 768)
    """
    return jax.tree.map(lambda leaf: leaf, _abstract_model(config))  # a copy: a module can be changed


@cache
def _abstract_model(config: GPTConfig) -> GPT:
    """Tracing gpt2-xl takes a second, and a start asks several times."""
    return jax.eval_shape(lambda: GPT(config, rngs=nnx.Rngs(0)))


def num_parameters(model: GPT) -> int:
    """How many numbers are learned; a tied head counts once, padding rows not at all. Works on an abstract model.

    >>> num_parameters(abstract_model(GPTConfig.preset("gpt2")))
    124439808
    """
    padding = (model.config.padded_vocab_size - model.config.vocab_size) * model.config.d_model
    tables = 1 if model.head is None else 2
    return sum(leaf.size for leaf in jax.tree.leaves(model)) - tables * padding


def named_parameters(model: GPT) -> dict[str, Any]:
    """Every parameter by its path, such as blocks.3.attn.query.kernel; of an abstract model, the shapes."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def path_name(path: tuple[Any, ...]) -> str:
    """The path of a leaf in words, such as blocks.3.attn.query.kernel."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def select(model: GPT, where: Callable[[str], bool] | None) -> GPT:
    """The parameters whose path is chosen; None, which is no leaf, in place of each other one. Without `where`, all.

    >>> biases = select(abstract_model(GPTConfig.preset("tiny")), lambda path: path.endswith("bias"))
    >>> len(jax.tree.leaves(biases)), biases.blocks[0].mlp.up.kernel.get_value()
    (17, None)
    """
    if where is None:
        return model
    return jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if where(path_name(path)) else None, model)


def combine(selected: GPT, rest: GPT) -> GPT:
    """The inverse of `select`: what was left out comes from the other model."""
    return jax.tree.map(lambda leaf, other: other if leaf is None else leaf, selected, rest, is_leaf=_is_none)


def _is_none(part: Any) -> bool:
    return part is None
