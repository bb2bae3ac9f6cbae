"""Parameters that are cut over the fsdp axis, made whole just before they are used."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from jaxgpt.model.gpt import GPT, Block, named_parameters, path_name
from jaxgpt.parallel.sharding import FSDP, parameter_specs, within_block

Part = TypeVar("Part", GPT, Block)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def gather(shard: Float[Array, "..."], axis: int, dtype: str, grad_dtype: str) -> Float[Array, "..."]:
    """The whole of a parameter cut along `axis`, in `dtype`. Its gradient is scattered back, in `grad_dtype`."""
    del grad_dtype  # for the backward pass
    return jax.lax.all_gather(shard.astype(dtype), FSDP, axis=axis, tiled=True)


def scatter(gradient: Float[Array, "..."], axis: int, grad_dtype: str) -> Float[Array, "..."]:
    """The sum of a gradient over the fsdp axis, each device keeping its part, in float32."""
    summed = jax.lax.psum_scatter(gradient.astype(grad_dtype), FSDP, scatter_dimension=axis, tiled=True)
    return summed.astype(jnp.float32)


def _forward(shard: Array, axis: int, dtype: str, grad_dtype: str) -> tuple[Array, None]:
    return gather(shard, axis, dtype, grad_dtype), None


def _backward(axis: int, dtype: str, grad_dtype: str, _: None, gradient: Array) -> tuple[Array]:
    del dtype  # custom_vjp hands it over all the same
    return (scatter(gradient, axis, grad_dtype),)


gather.defvjp(_forward, _backward)


class Gatherer:
    """Knows which parameters of a model are cut, and makes them whole on each device."""

    def __init__(self, specs: GPT, dtype: str, grad_dtype: str) -> None:
        self.specs, self._dtype, self._grad_dtype = specs, dtype, grad_dtype
        self._cuts = {
            within_block(path): spec.index(FSDP) for path, spec in named_parameters(specs).items() if FSDP in spec
        }

    @classmethod
    def of(cls, model: GPT, mesh: Mesh, grad_dtype: str) -> "Gatherer":
        """For a model as a whole, before its shards are looked at."""
        return cls(parameter_specs(model, mesh), model.config.dtype, grad_dtype)

    @property
    def cuts(self) -> bool:
        """Whether there is anything to gather."""
        return bool(self._cuts)

    def block(self, block: Block) -> Block:
        """A block, whole. Its kernels travel in the dtype they are used in."""
        return self._map(partial(gather, dtype=self._dtype, grad_dtype=self._grad_dtype), block)

    def tables(self, model: GPT) -> GPT:
        """The model, whole but for its blocks. The tables travel in float32, in which their rows are added."""
        whole = partial(gather, dtype="float32", grad_dtype=self._grad_dtype)
        return self._map(whole, model, lambda path: not path.startswith("blocks."))

    def everything(self, model: GPT) -> tuple[GPT, "Gatherer"]:
        """The whole model, in float32, and a gatherer that finds nothing to do in it."""
        whole = self._map(partial(gather, dtype="float32", grad_dtype=self._grad_dtype), model)
        return whole, Gatherer(jax.tree.map(lambda _: P(), self.specs), self._dtype, self._grad_dtype)

    def scattered(self, gradients: GPT) -> GPT:
        """The inverse for gradients of a whole model: summed, and cut like the model."""
        return self._map(partial(scatter, grad_dtype=self._grad_dtype), gradients)

    def _map(self, change: Callable[..., Array], part: Part, chosen: Callable[[str], bool] = lambda _: True) -> Part:
        """Change the leaves of a part that are cut and chosen by their path."""

        def one(path: tuple[Any, ...], leaf: Array) -> Array:
            cut = self._cuts.get(within_block(path_name(path)))
            return change(leaf, axis=cut) if cut is not None and chosen(path_name(path)) else leaf

        return jax.tree_util.tree_map_with_path(one, part)
