"""How much XLA sends at once between GPUs: the parameters of one block, or its gradients."""

import os

import jax
from jax.sharding import Mesh

from jaxgpt.model.gpt import GPT
from jaxgpt.ops.platform import on_gpu
from jaxgpt.parallel.mesh import FSDP
from jaxgpt.parallel.sharding import parameter_specs

WIDTH = {"float32": 4, "bfloat16": 2}


def combine_thresholds(model: GPT, mesh: Mesh, grad_dtype: str) -> dict[str, int]:
    """Compiler options for a program on several GPUs; none for other devices, or for one.

    XLA joins small collectives up to 30 MB of results, which of scattered gradients is all of GPT-2 124M on 8 devices:
    they would be sent when the backward pass is over. A block at a time, they are sent while the block before it is
    computed. What XLA_FLAGS says about them stays.
    """
    if mesh.size == 1 or not on_gpu():
        return {}
    leaves, specs = (jax.tree.leaves(part.blocks[0]) for part in (model, parameter_specs(model, mesh)))
    whole = sum(leaf.size for leaf in leaves)
    sharded = sum(leaf.size for leaf, spec in zip(leaves, specs, strict=True) if FSDP in spec)
    parts, width = mesh.shape[FSDP], WIDTH[grad_dtype]
    options = {
        "all_gather": sharded * WIDTH[model.config.dtype],
        "reduce_scatter": sharded // parts * width,
        "all_reduce": (whole - sharded + sharded // parts) * width,
    }
    names = {f"xla_gpu_{kind}_combine_threshold_bytes": size for kind, size in options.items() if size}
    return {name: size for name, size in names.items() if name not in os.environ.get("XLA_FLAGS", "")}
