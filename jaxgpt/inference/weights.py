"""The weights as a loop over tokens reads them."""

from typing import Any

import jax
from flax import nnx

from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Linear
from jaxgpt.model.lora import merge_adapters
from jaxgpt.ops.residual import barrier


def cast_for_inference(model: GPT) -> GPT:
    """The same model, its matrices in the type it computes in, and the output table apart from the embedding's.

    Else the loop reads them in float32 and casts them at every turn. Embeddings stay in float32: few rows are read.
    Adapters are merged.
    """
    model, dtype = merge_adapters(model), model.config.dtype
    if dtype == "float32":
        return model

    def narrow(part: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), part) if isinstance(part, Linear) else part

    narrowed = jax.tree.map(narrow, model, is_leaf=lambda part: isinstance(part, Linear))
    narrowed.head = nnx.data(nnx.Param(model.output_table.astype(dtype)))
    return barrier(narrowed)
