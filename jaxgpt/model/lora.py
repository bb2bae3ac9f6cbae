"""Low-rank adapters of linear maps (LoRA: Hu et al. 2021): x W + alpha / r x A B, where A and B alone are trained."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float

from jaxgpt.model.gpt import GPT
from jaxgpt.model.init import PRNGSequence, Rngs
from jaxgpt.model.layers import Linear
from jaxgpt.model.parameters import abstract_model
from jaxgpt.ops.linear import linear


class Adapter(nnx.Module):
    """The change of a linear map (equation 3). B starts at zero, so at first there is none."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float, *, rngs: Rngs) -> None:
        self.a = nnx.Param(inputs**-0.5 * jax.random.normal(rngs.params(), (inputs, rank), jnp.float32))
        self.b = nnx.Param(jnp.zeros((rank, outputs), jnp.float32))
        self.scale = alpha / rank

    def __call__(self, x: Float[Array, "M I"]) -> Float[Array, "M O"]:
        a, b = self.a[...].astype(x.dtype), self.b[...].astype(x.dtype)
        return self.scale * linear(linear(x, a), b)


def add_adapters(model: GPT, rank: int, alpha: float, *, rngs: nnx.Rngs) -> GPT:
    """The model with an adapter on every linear map: query, key, value, out, up and down. It computes what it did.

    The kernels are kept in the dtype in which they are used: they are not trained, so no number changes by that.

    Example:
        >>> from jaxgpt import GPTConfig
        >>> model = add_adapters(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), 4, 8.0, rngs=nnx.Rngs(1))
        >>> model.blocks[0].mlp.up.adapter.a.shape  # [D, r]
        (32, 4)
    """
    keys = PRNGSequence(rngs)

    def add(part: Linear) -> Linear:
        part = jax.tree.map(lambda leaf: leaf, part)
        shape, cut = part.kernel.shape, part.num_inputs
        part.kernel = nnx.Param(part.kernel[...].astype(model.config.dtype))
        part.adapter = nnx.data(Adapter(math.prod(shape[:cut]), math.prod(shape[cut:]), rank, alpha, rngs=keys))
        return part

    adapted = _map_linear(add, model)
    keys.end()
    return adapted


def merge_adapters(model: GPT) -> GPT:
    """The model with W + alpha / r A B in place of each W and its adapter, in float32; without adapters, as it is.

    Example:
        >>> from jaxgpt import GPTConfig
        >>> model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> merged = merge_adapters(add_adapters(model, 4, 8.0, rngs=nnx.Rngs(1)))
        >>> jax.tree.structure(merged) == jax.tree.structure(model)
        True
    """
    if not has_adapters(model):
        return model

    def merge(part: Linear) -> Linear:
        adapter, part = part.adapter, jax.tree.map(lambda leaf: leaf, part)
        assert adapter is not None
        change = adapter.scale * jnp.matmul(adapter.a[...], adapter.b[...], precision="highest")
        part.kernel = nnx.Param(part.kernel[...].astype(change.dtype) + change.reshape(part.kernel.shape))
        part.adapter = None
        return part

    leaves = jax.tree.leaves(_map_linear(merge, model))
    return jax.tree.unflatten(jax.tree.structure(abstract_model(model.config)), leaves)


def has_adapters(model: GPT) -> bool:
    """Whether a model's linear maps have adapters."""
    return model.blocks[0].attn.query.adapter is not None


def is_adapter(path: str) -> bool:
    """Whether the parameter at a path belongs to an adapter.

    >>> is_adapter("blocks.3.attn.query.adapter.a"), is_adapter("blocks.3.attn.query.kernel")
    (True, False)
    """
    return ".adapter." in path


def _map_linear(change: Callable[[Linear], Linear], model: GPT) -> GPT:
    def is_linear(part: Any) -> bool:
        return isinstance(part, Linear)

    return jax.tree.map(lambda part: change(part) if is_linear(part) else part, model, is_leaf=is_linear)
