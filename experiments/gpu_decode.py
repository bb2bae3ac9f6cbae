"""What would a token cost on an H200? Read from the decode loop compiled for one. A part of experiments.gpu_report."""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.compiled import traffic
from jaxgpt.config import GPTConfig
from jaxgpt.inference.generate import _decode, tokens_per_turn
from jaxgpt.inspect.target import AOT_XLA_FLAGS, FOR_PALLAS, h200
from jaxgpt.model.gpt import GPT, abstract_model, num_parameters
from jaxgpt.ops.attention import compiling_for


class Row(NamedTuple):
    """Greedy decoding at 124M in bfloat16 with a context of 1024."""

    batch: int
    changes: dict[str, Any] = {}  # noqa: RUF012
    fused: bool = False


ROWS = {
    "decode, batch 1": Row(1),
    "decode, batch 8": Row(8),
    "decode, batch 64, 4 KV heads": Row(64, {"num_kv_heads": 4}),
    "decode by cuDNN, batch 1": Row(1, {"attention": "cudnn"}),
    "decode by cuDNN, batch 8": Row(8, {"attention": "cudnn"}),
    "decode by cuDNN, batch 64, 4 KV heads": Row(64, {"num_kv_heads": 4, "attention": "cudnn"}),
    "decode fused, batch 1": Row(1, fused=True),
    "decode fused, batch 8": Row(8, fused=True),
    "decode fused, batch 64, 4 KV heads": Row(64, {"num_kv_heads": 4}, fused=True),
}
BOUNDS = {
    "decode, batch 1": {"kernels": 214, "megabytes": 338},
    "decode, batch 8": {"kernels": 202, "megabytes": 602},
    "decode by cuDNN, batch 1": {"kernels": 168, "megabytes": 296},
    "decode by cuDNN, batch 8": {"kernels": 142, "megabytes": 562},
    "decode by cuDNN, batch 64, 4 KV heads": {"kernels": 142, "megabytes": 1100},
    "decode fused, batch 1": {"kernels": 111, "megabytes": 300},
    "decode fused, batch 8": {"kernels": 107, "megabytes": 615},
    "decode fused, batch 64, 4 KV heads": {"kernels": 155, "megabytes": 1110},
}
"""For a token of each row, on average over a turn of the loop. They only go down."""


def decode_facts(row: Row, new_tokens: int = 512) -> dict[str, Any]:
    """What the compiled loop does for a token, and the least it could: each weight and each cached number read once."""
    config = dataclasses.replace(GPTConfig.preset("gpt2"), dtype="bfloat16", **row.changes)
    device = jax.sharding.SingleDeviceSharding(h200()[0])

    def on_device(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)

    model, key = abstract_model(config), jax.eval_shape(lambda: jax.random.key(0))
    prompt, length = jnp.zeros((row.batch, 1), jnp.int32), jnp.ones(row.batch, jnp.int32)
    with compiling_for("cuda"), jax.sharding.use_abstract_mesh(FOR_PALLAS):
        logits, cache = jax.eval_shape(partial(GPT.read, capacity=config.context_length), model, prompt, length)
        given = (*on_device((model, logits, cache)), key, 1.0, None, -1)
        lowered = _decode.lower(*given, count=new_tokens, top_k=None, greedy=True, fused=row.fused)
        tokens = tokens_per_turn()
    compiled = lowered.compile(AOT_XLA_FLAGS)
    moved = traffic(compiled.as_text(), one_turn=True)
    least = 2 * num_parameters(model) + sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(cache))
    return {
        "batch": row.batch,
        "kernels": round(moved.kernels / tokens),
        "megabytes": round(moved.gigabytes * 1e3 / tokens),
        "least_megabytes": round(least / 1e6),
        "temporary_megabytes": round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
        "kinds": moved.kinds,
    }
