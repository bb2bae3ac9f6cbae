"""Where parameters and batches live: a table from a parameter's path to its axes, and from axes to the mesh."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters
from jaxgpt.parallel.mesh import FSDP

LINEAR = ("attn.query", "attn.key", "attn.value", "attn.out", "mlp.up", "mlp.down")

AXES: dict[str, tuple[str, ...]] = {
    "embed": ("vocab", "embed"),
    "head": ("vocab", "embed"),
    "position": ("context", "embed"),
    "attn.query.kernel": ("embed", "heads", "head_dim"),
    "attn.key.kernel": ("embed", "kv_heads", "head_dim"),
    "attn.value.kernel": ("embed", "kv_heads", "head_dim"),
    "attn.out.kernel": ("heads", "head_dim", "embed"),
    "mlp.up.kernel": ("embed", "mlp"),
    "mlp.down.kernel": ("mlp", "embed"),
    "attn.query.bias": ("small", "small"),
    "attn.key.bias": ("small", "small"),
    "attn.value.bias": ("small", "small"),
    "attn.out.bias": ("small",),
    "mlp.up.bias": ("small",),
    "mlp.down.bias": ("small",),
    "attn_norm.scale": ("small",),
    "attn_norm.bias": ("small",),
    "mlp_norm.scale": ("small",),
    "mlp_norm.bias": ("small",),
    "norm.scale": ("small",),
    "norm.bias": ("small",),
    **{f"{name}.adapter.{factor}": ("small", "small") for name in LINEAR for factor in ("a", "b")},
}
"""The axes of each parameter, by its path in the model or in a block. A small parameter is whole on every device."""

SHARDED = ("vocab", "context", "mlp", "embed", "heads", "kv_heads", "head_dim")
"""Axes that may be sharded over fsdp."""


def sharded_axis(path: str, shape: tuple[int, ...], mesh: Mesh) -> int | None:
    """Which axis of a parameter is sharded over fsdp: the first that may be and that divides. None: it is whole.

    The first is outermost in memory, so the shards of a gathered parameter are joined without a transpose.
    Raises ValueError on a path that the table does not have, UserError where fsdp divides no axis.
    """
    parts, name = mesh.shape.get(FSDP, 1), within_block(path)
    if name not in AXES:
        raise ValueError(f"which axes has {path}? Add {name!r} to AXES in jaxgpt/parallel/sharding.py")
    candidates = [(axis, size) for axis, (kind, size) in enumerate(zip(AXES[name], shape)) if kind in SHARDED]
    if parts == 1 or not candidates:
        return None
    for axis, size in candidates:
        if size % parts == 0:
            return axis
    raise UserError(f"fsdp={parts} divides no axis of {path} {list(shape)}: choose --mesh.fsdp so that it divides one")


def parameter_sharding(path: str, shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Where one parameter lives, by its path, such as blocks.3.attn.query.kernel. Loading and training both ask here.

    Raises as `sharded_axis` does.
    """
    return NamedSharding(mesh, parameter_spec(path, shape, mesh))


def parameter_spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The same without the mesh."""
    axis = sharded_axis(path, shape, mesh)
    return P() if axis is None else P(*(None,) * axis, FSDP)


def within_block(path: str) -> str:
    """The path in the model, or in its blocks, without the number of the block: the same for all blocks."""
    return re.sub(r"^(blocks\.)?\d+\.", "", path)


def parameter_specs(model: GPT, mesh: Mesh) -> GPT:
    """For each parameter, the mesh axes that shard it. Works on an abstract model."""
    specs = [parameter_spec(path, leaf.shape, mesh) for path, leaf in named_parameters(model).items()]
    return jax.tree.unflatten(jax.tree.structure(model), specs)


def abstract_shards(model: GPT, mesh: Mesh) -> GPT:
    """The shapes of an abstract model with where each parameter lives."""
    places = shardings(parameter_specs(model, mesh), mesh)
    return jax.tree.map(lambda leaf, place: leaf.update(sharding=place), model, places)


def state_specs(state: Any, mesh: Mesh) -> Any:
    """The same for any tree: each part that is a GPT, such as Adam's moments, like the model; the rest is whole."""
    return jax.tree.map(
        lambda part: parameter_specs(part, mesh) if isinstance(part, GPT) else P(),
        state,
        is_leaf=lambda part: isinstance(part, GPT),
    )


def shardings(specs: Any, mesh: Mesh) -> Any:
    """Specs on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def shard(model: GPT, mesh: Mesh) -> GPT:
    """The model, sharded over fsdp and copied over data. With several processes, each has it whole or holds a part.

    Parameters that are sharded so already are taken as they are.

    Raises UserError where fsdp divides no axis of a parameter.

    >>> from flax import nnx
    >>> from jaxgpt.config import GPTConfig
    >>> from jaxgpt.parallel.mesh import one_device
    >>> model = shard(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), one_device())
    >>> dict(model.embed[...].sharding.mesh.shape)
    {'data': 1, 'fsdp': 1}
    """

    def place(leaf: Array, sharding: NamedSharding) -> Array:
        if isinstance(leaf, Array) and leaf.sharding == sharding:
            return leaf
        if isinstance(leaf, Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(place, model, shardings(parameter_specs(model, mesh), mesh))


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of arrays, or of their shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes that share out a batch: those longer than 1, or there would be collectives with oneself."""
    return tuple(name for name in mesh.axis_names if mesh.shape[name] > 1)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, P(batch_axes(mesh) or None))
