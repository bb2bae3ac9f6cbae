"""Where parameters and batches live: a table from path to axes, from axes to the mesh."""

import math
import re
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgpt.model.gpt import GPT, named_parameters
from jaxgpt.training.config import MeshConfig, TrainConfig

DATA, FSDP = "data", "fsdp"

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
}
"""What each axis of each parameter is, by its path in the model or in a block. What is small is on every device."""

SHARDED = ("vocab", "context", "mlp", "embed", "heads", "kv_heads", "head_dim")
"""Axes that the fsdp axis of the mesh may cut."""


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The devices as a grid of (data, fsdp). Raises ValueError where the config does not fit their number."""
    devices = jax.devices() if devices is None else devices
    data, fsdp = config.sizes(len(devices))
    grid = np.array(devices[: data * fsdp]).reshape(data, fsdp)
    return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))


def one_device() -> Mesh:
    """A mesh of the first device alone."""
    return make_mesh(MeshConfig(data=1, allow_idle=True))


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes that a batch is spread over: those longer than 1, or there would be collectives with oneself."""
    return tuple(name for name in mesh.axis_names if mesh.shape[name] > 1)


def cut_axis(path: str, shape: tuple[int, ...], mesh: Mesh) -> int | None:
    """Which axis of a parameter is cut along fsdp: the first that may be and that divides. None: every device has it.

    The first lies outermost in memory, so the shards of a gathered parameter are joined without a transposition.
    Raises ValueError on a path that the table does not have, and where nothing divides.
    """
    parts, name = mesh.shape[FSDP], within_block(path)
    if name not in AXES:
        raise ValueError(f"which axes has {path}? Add {name!r} to AXES in jaxgpt/training/sharding.py")
    candidates = [(axis, size) for axis, (kind, size) in enumerate(zip(AXES[name], shape)) if kind in SHARDED]
    if parts == 1 or not candidates:
        return None
    for axis, size in candidates:
        if size % parts == 0:
            return axis
    raise ValueError(f"fsdp={parts} divides no axis of {path} {list(shape)}: choose --mesh.fsdp so that it divides one")


def within_block(path: str) -> str:
    """The path without the block's number: the same for all blocks."""
    return re.sub(r"^blocks\.\d+\.", "", path)


def parameter_specs(model: GPT, mesh: Mesh) -> GPT:
    """For each parameter, which mesh axes cut it. Works on an abstract model."""
    shapes = named_parameters(model)
    cuts = [cut_axis(path, leaf.shape, mesh) for path, leaf in shapes.items()]
    specs = [P() if cut is None else P(*(None,) * cut, FSDP) for cut in cuts]
    return jax.tree.unflatten(jax.tree.structure(model), specs)


def state_specs(state: Any, mesh: Mesh) -> Any:
    """The same for a state: whatever has the shape of the model is cut like the model, the rest is on every device."""
    return jax.tree.map(
        lambda part: parameter_specs(part, mesh) if isinstance(part, GPT) else P(),
        state,
        is_leaf=lambda part: isinstance(part, GPT),
    )


def shardings(specs: Any, mesh: Mesh) -> Any:
    """Specs on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def shard(model: GPT, mesh: Mesh) -> GPT:
    """A model that every process has whole, cut over the mesh."""

    def place(leaf: Array, sharding: NamedSharding) -> Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

    return jax.tree.map(place, model, shardings(parameter_specs(model, mesh), mesh))


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of arrays, or of their shapes with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_batch(config: TrainConfig, data: int, fsdp: int) -> None:
    """Raise ValueError where the batch cannot be shared out to all devices of a mesh in equal microbatches."""
    if config.batch_size % (data * fsdp * config.microbatches):
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared out to {data * fsdp} devices in microbatches="
            f"{config.microbatches}: make it a multiple of {data * fsdp * config.microbatches}, or use fewer devices "
            "(--mesh.data 1 --mesh.allow-idle)"
        )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch over all devices."""
    return NamedSharding(mesh, P(batch_axes(mesh) or None))
