"""Muon (Jordan et al. 2024): a momentum whose matrices are orthogonalised, each as a whole, on any mesh."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters, path_name
from jaxgpt.parallel.mesh import FSDP
from jaxgpt.parallel.sharding import parameter_spec, sharded_axis, within_block

MUON_DIMENSIONS = {
    "attn.query.kernel": ((0,), (1, 2)),  # [D, N, H]
    "attn.key.kernel": ((0,), (1, 2)),
    "attn.value.kernel": ((0,), (1, 2)),
    "attn.out.kernel": ((0, 1), (2,)),  # [N, H, D]
    "mlp.up.kernel": ((0,), (1,)),
    "mlp.down.kernel": ((0,), (1,)),
}
"""The input and the output axes of the matrices that Muon orthogonalises, by their path in a block."""

ADAMW_RMS = 0.2
"""The root mean square of AdamW's updates, about: Muon's are made as large, so that one learning rate serves both."""


def muon_axes(path: str) -> MuonDimensionNumbers | None:
    """The input and output axes of the parameter at a path; None: AdamW's."""
    name = within_block(path)
    return MuonDimensionNumbers(*MUON_DIMENSIONS[name]) if name in MUON_DIMENSIONS else None


def muon_dimensions(model: GPT) -> GPT:
    """For each parameter, the axes by which `optax.contrib.muon` makes it a matrix; None: AdamW updates it.

    Without it Muon takes each 2-D array for a matrix, tables and biases of heads included, and no attention kernel,
    which are 3-D here (Jordan et al. 2024, "Muon").

    Example:
        >>> from optax.contrib import muon
        >>> from jaxgpt import decay_mask, muon_dimensions
        >>> optimizer = muon(0.02, weight_decay_mask=decay_mask, muon_weight_dimension_numbers=muon_dimensions)
        >>> from flax import nnx
        >>> from jaxgpt import GPT, GPTConfig
        >>> attention = muon_dimensions(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))).blocks[0].attn
        >>> attention.out.kernel.get_value()  # of [N, H, D]
        MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=(2,))
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: muon_axes(path_name(path)), model)


def scale_by_muon_and_adam(
    momentum: float, beta1: float, beta2: float, mesh: Mesh | None = None
) -> optax.GradientTransformation:
    """Muon for the kernels of the blocks, Adam for the rest. `mesh`: where parameters are sharded."""
    kernels = optax.chain(
        optax.trace(momentum, nesterov=True), optax.stateless(partial(orthogonalize_kernels, mesh=mesh))
    )
    return optax.partition({"muon": kernels, "adam": optax.scale_by_adam(beta1, beta2)}, _labels)


def _labels(model: GPT) -> GPT:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "adam" if muon_axes(path_name(path)) is None else "muon", model
    )


def orthogonalize_kernels(updates: GPT, model: GPT, mesh: Mesh | None = None) -> GPT:
    """Each kernel as a whole matrix, orthogonalised, and as large as AdamW's updates (Liu et al. 2025, equation 4)."""
    kernels = named_parameters(updates)
    orthogonalize = partial(_orthogonalize, dtype=model.config.dtype, axes=dict.fromkeys(kernels))
    if mesh is not None and mesh.shape[FSDP] > 1:
        axes = {path: sharded_axis(path, kernel.shape, mesh) for path, kernel in kernels.items()}
        specs = {path: parameter_spec(path, kernel.shape, mesh) for path, kernel in kernels.items()}
        sharded = partial(orthogonalize, axes=axes)
        orthogonalize = jax.shard_map(sharded, mesh=mesh, in_specs=(specs,), out_specs=specs)
    found = orthogonalize(kernels)
    return jax.tree.unflatten(jax.tree.structure(updates), [found[path] for path in kernels])


def _orthogonalize(kernels: dict[str, Array], *, dtype: str, axes: dict[str, int | None]) -> dict[str, Array]:
    """On one device, which has a shard of each kernel along its axis, or all of it where that is None.

    Kernels of one shape are stacked, and computed as one batch.
    """
    alike: dict[tuple, list[str]] = {}
    for path, kernel in kernels.items():
        alike.setdefault((muon_axes(path), axes[path], kernel.shape), []).append(path)
    found: dict[str, Array] = {}
    for (dimensions, axis, _), paths in alike.items():
        stack = jnp.stack([kernels[path].astype(dtype) for path in paths])
        stack = newton_schulz(stack, dimensions) if axis is None else _in_turns(stack, dimensions, axis + 1)
        found |= {path: kernel.astype(jnp.float32) for path, kernel in zip(paths, stack)}
    return found


def _in_turns(stack: Float[Array, "L ..."], dimensions: MuonDimensionNumbers, axis: int) -> Float[Array, "L ..."]:
    """`newton_schulz` of shards along `axis`: each device gets whole kernels, an equal share of them, and sends back.

    That is two all-to-alls of a shard's size, where gathering every kernel would send n - 1 times as much.
    """
    count, devices = len(stack), jax.lax.axis_size(FSDP)
    stack = jnp.pad(stack, [(0, -count % devices)] + [(0, 0)] * (stack.ndim - 1))  # kernels of zeros stay zeros
    whole = jax.lax.all_to_all(stack, FSDP, split_axis=0, concat_axis=axis, tiled=True)
    whole = newton_schulz(whole, dimensions)
    return jax.lax.all_to_all(whole, FSDP, split_axis=axis, concat_axis=0, tiled=True)[:count]


def newton_schulz(stack: Float[Array, "L ..."], dimensions: MuonDimensionNumbers) -> Float[Array, "L ..."]:
    """The semi-orthogonal matrix nearest to each kernel, roughly: optax's five Newton-Schulz iterations, scaled."""
    inputs, outputs = ([1 + axis for axis in axes] for axes in dimensions)
    batched = MuonDimensionNumbers(tuple(inputs), tuple(outputs))
    iterations = scale_by_muon(beta=0.0, nesterov=False, weight_dimension_numbers=batched)
    orthogonal, _ = iterations.update(stack, iterations.init(stack))
    longest = max(math.prod(stack.shape[axis] for axis in axes) for axes in batched)
    return ADAMW_RMS * math.sqrt(longest) * orthogonal
