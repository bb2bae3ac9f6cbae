"""The view of a sharded model that a loss is given on each device: parameters are whole when they are used."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import jax
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jaxgpt.model.blocks import Blocks, Remat, apply_blocks
from jaxgpt.model.gpt import GPT, Block
from jaxgpt.model.parameters import named_parameters, path_name
from jaxgpt.ops.attention import DocStarts
from jaxgpt.ops.dropout import DropoutKey
from jaxgpt.parallel.gather import all_gather, reduce_scatter
from jaxgpt.parallel.mesh import FSDP
from jaxgpt.parallel.sharding import parameter_specs, within_block

TABLES = ("embed", "head")
"""Tables with a row for each token of the vocabulary."""
Part = TypeVar("Part", GPT, Block, Blocks)


class Unsharder:
    """Knows which parameters of a model are sharded, and makes them whole on each device."""

    def __init__(self, specs: GPT, dtype: str, grad_dtype: str) -> None:
        self.specs, self._dtype, self._grad_dtype = specs, dtype, grad_dtype
        self._axes = {
            within_block(path): spec.index(FSDP) for path, spec in named_parameters(specs).items() if FSDP in spec
        }

    @classmethod
    def of(cls, model: GPT, mesh: Mesh, grad_dtype: str = "float32") -> "Unsharder":
        """For a model as it is outside of shard_map."""
        return cls(parameter_specs(model, mesh), model.config.dtype, grad_dtype)

    def view(self, shards: GPT, *, zero: int = 3, remat: Remat = "none") -> GPT:
        """The model with its embeddings and last norm whole, and blocks that are unsharded one by one.

        With zero=3 the blocks are unsharded a second time in the backward pass, instead of being saved.
        """
        if self._axes and zero == 3 and remat == "none":
            remat = "parameters"
        view = self._map(self._table, shards, lambda path: path in TABLES)
        view = self._map(self._float32, view, lambda path: path not in TABLES and not path.startswith("blocks."))
        if self._axes or remat != "none":
            view.blocks = nnx.data(ShardedBlocks(view.blocks, self, remat))  # type: ignore[assignment]
        return view

    def unshard_block(self, block: Block) -> Block:
        """A whole block, its kernels gathered in the dtype that they are used in."""
        dtypes = {"dtype": self._dtype, "grad_dtype": self._grad_dtype, "result_dtype": self._dtype}
        return self._map(partial(all_gather, **dtypes), block)

    def unshard_all(self, part: Part) -> Part:
        """The whole model, or all blocks, in float32."""
        return self._map(self._float32, part)

    def reduce_scatter(self, gradients: GPT) -> GPT:
        """The gradient of a whole model summed over fsdp, and sharded like the model."""
        return self._map(partial(reduce_scatter, grad_dtype=self._grad_dtype), gradients)

    @property
    def without_shards(self) -> "Unsharder":
        """For a model that `unshard_all` has made whole."""
        return Unsharder(jax.tree.map(lambda _: P(), self.specs), self._dtype, self._grad_dtype)

    def _float32(self, shard: Array, axis: int) -> Array:
        return all_gather(shard, axis, "float32", self._grad_dtype, "float32")

    def _table(self, shard: Array, axis: int) -> Array:
        """Sent in the dtype of computation, to which the model rounds its rows; gradients are added in float32."""
        return all_gather(shard, axis, self._dtype, self._grad_dtype, "float32")

    def _map(self, change: Callable[..., Array], part: Part, where: Callable[[str], bool] = lambda _: True) -> Part:
        """Change those sharded leaves of a part whose path is chosen."""

        def one(path: tuple[Any, ...], leaf: Array) -> Array:
            axis = self._axes.get(within_block(path_name(path)))
            return change(leaf, axis=axis) if axis is not None and where(path_name(path)) else leaf

        return jax.tree_util.tree_map_with_path(one, part)


class ShardedBlocks:
    """The blocks of a view: called, they unshard each block just before its use, and follow the remat policy.

    As a pytree, and by index, they are whole blocks in float32: a loss that sums over jax.tree.leaves(model), or reads
    model.blocks[3], sees whole parameters and gets their gradient. That gathers all of them at once.
    """

    def __init__(self, shards: Blocks, unsharder: Unsharder, remat: Remat) -> None:
        self._shards, self._unsharder, self._remat = shards, unsharder, remat

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        dropout_key: DropoutKey = None,
        doc_starts: DocStarts = None,
    ) -> Float[Array, "B T D"]:
        return apply_blocks(
            self._shards,
            x,
            positions,
            dropout_key,
            doc_starts,
            scan=self._shards.scan,
            unshard=self._unsharder.unshard_block,
            remat=self._remat,
        )

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[Block]:
        return (self[layer] for layer in range(len(self)))

    def __getitem__(self, index: int | slice) -> Any:
        found: Any = self._shards[index]
        if isinstance(index, slice):
            return [self._unsharder.unshard_all(block) for block in found]
        return self._unsharder.unshard_all(found)

    def whole(self) -> Blocks:
        """All blocks, whole, in float32."""
        return self._unsharder.unshard_all(self._shards)


def _flatten_with_keys(blocks: ShardedBlocks) -> tuple[list[tuple[Any, Any]], Any]:
    whole = blocks.whole()
    paths, treedef = jax.tree_util.tree_flatten_with_path(whole, is_leaf=lambda part: part is not whole)
    return [(path[0], part) for path, part in paths], treedef


def _flatten(blocks: ShardedBlocks) -> tuple[list[Any], Any]:
    whole = blocks.whole()
    return jax.tree.flatten(whole, is_leaf=lambda part: part is not whole)


jax.tree_util.register_pytree_with_keys(ShardedBlocks, _flatten_with_keys, jax.tree.unflatten, _flatten)
