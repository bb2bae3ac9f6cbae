"""The weights as a loop over tokens reads them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int8

from jaxgpt.config import Weights
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import InferenceHead, Linear
from jaxgpt.model.lora import has_adapters, merge_adapters
from jaxgpt.ops.barrier import barrier
from jaxgpt.ops.linear import bias_dtype
from jaxgpt.ops.platform import platform_jit, target_platform

MOST = 127
"""The largest of a row's int8 weights."""


def cast_for_inference(model: GPT, weights: Weights | None = None) -> GPT:
    """The same model, its matrices as `weights` says, and the output table apart from the embedding's.

    None: in the type it computes in; in float32 that is the model itself. Without a cast the loop reads the matrices in
    float32 and casts them at every turn. Embeddings and LayerNorms stay in float32: few numbers are read. Adapters are
    merged. A model that has been cast stays as it is.
    """
    model = merge_adapters(model)
    if weights is None and model.config.dtype == "bfloat16":
        weights = "bf16"
    if weights is None or isinstance(model.head, InferenceHead):
        return model
    narrowed = jax.tree.map(lambda part: _narrow(part, weights), model, is_leaf=lambda part: isinstance(part, Linear))
    narrowed.head = nnx.data(_head(model.output_table, weights))
    return barrier(narrowed)


def quantize(kernel: Float[Array, "I O"]) -> tuple[Int8[Array, "I O"], Float[Array, " O"]]:
    """The nearest int8 numbers, and the scale of each output: kernel = numbers * scale, within half a scale.

    >>> numbers, scale = quantize(jnp.array([[1.0, 0.0], [-0.5, 0.0]]))
    >>> numbers.tolist(), (127 * scale).tolist()
    ([[127, 0], [-64, 0]], [1.0, 0.0])
    """
    scale = jnp.abs(kernel).max(axis=0) / MOST
    return jnp.rint(kernel / jnp.where(scale == 0, 1, scale)[None]).astype(jnp.int8), scale


def _narrow(part: Any, weights: Weights) -> Any:
    if not isinstance(part, Linear):
        return part
    narrow, shape = jax.tree.map(lambda leaf: leaf, part), part.kernel.shape
    if weights == "bf16":
        narrow.kernel = nnx.Param(part.kernel[...].astype(jnp.bfloat16))
        if part.bias is not None:
            narrow.bias = nnx.Param(part.bias[...].astype(bias_dtype(jnp.bfloat16)))
        return narrow
    outputs = shape[part.num_inputs :]
    numbers, scale = quantize(part.kernel[...].reshape(-1, math.prod(outputs)))
    narrow.kernel, narrow.scale = nnx.Param(numbers.reshape(shape)), nnx.data(nnx.Param(scale.reshape(outputs)))
    return narrow


def _head(table: Float[Array, "V D"], weights: Weights) -> Any:
    """On a CPU transposed: there one row times a matrix is fast where its columns lie side by side."""
    if weights == "int8":
        return InferenceHead(*quantize(table.T))
    narrow = table.astype(jnp.bfloat16)
    return InferenceHead(narrow.T, None) if target_platform() == "cpu" else nnx.Param(narrow)


def cast_once(model: GPT, weights: Weights | None = None) -> GPT:
    """The same by one program; a model that needs no cast is returned itself."""
    as_it_is = weights is None and model.config.dtype == "float32" and not has_adapters(model)
    return model if as_it_is or isinstance(model.head, InferenceHead) else _cast(model, weights)


_cast = platform_jit(cast_for_inference, static_argnames="weights")
