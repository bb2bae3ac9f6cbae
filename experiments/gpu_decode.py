"""What would a token cost on an H200? Read from the decode loop compiled for one. A part of experiments.gpu_report."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.compiled import traffic
from jaxgpt.config import GPTConfig
from jaxgpt.inference.generate import _decode
from jaxgpt.model.attention import compiling_for
from jaxgpt.model.cache import empty_cache
from jaxgpt.model.gpt import abstract_model, num_parameters
from jaxgpt.training.target import AS_IT_IS, h200


class Row(NamedTuple):
    """Greedy decoding at 124M in bfloat16 with a context of 1024."""

    batch: int
    changes: dict[str, Any] = {}  # noqa: RUF012


ROWS = {
    "decode, batch 1": Row(1),
    "decode, batch 8": Row(8),
    "decode, batch 64, 4 KV heads": Row(64, {"num_kv_heads": 4}),
}
BOUNDS = {
    "decode, batch 1": {"kernels": 230, "megabytes": 450},
    "decode, batch 8": {"kernels": 215, "megabytes": 700},
}
"""For each turn of the loop, which is a token of each row. They only go down."""


def decode_facts(row: Row, new_tokens: int = 512) -> dict[str, Any]:
    """What one turn of the compiled loop does, and the least it could: each weight and each cached number read once."""
    config = dataclasses.replace(GPTConfig.preset("gpt2"), dtype="bfloat16", **row.changes)
    device = jax.sharding.SingleDeviceSharding(h200()[0])

    def on_device(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), tree)

    model, key = abstract_model(config), jax.eval_shape(lambda: jax.random.key(0))
    cache = jax.eval_shape(lambda: empty_cache(config, row.batch, config.context_length))
    logits = jax.ShapeDtypeStruct((row.batch, config.vocab_size), jnp.float32)
    start = jax.ShapeDtypeStruct((row.batch,), jnp.int32)
    given = (*on_device((model, logits, cache, start)), key, 1.0, None, -1)
    with compiling_for("cuda"):
        lowered = _decode.lower(*given, count=new_tokens, top_k=None, greedy=True)
    moved = traffic(lowered.compile(AS_IT_IS).as_text(), one_turn=True)
    least = 2 * num_parameters(model) + sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(cache))
    return {
        "batch": row.batch,
        "kernels": moved.kernels,
        "megabytes": round(moved.gigabytes * 1e3),
        "least_megabytes": round(least / 1e6),
        "kinds": moved.kinds,
    }
