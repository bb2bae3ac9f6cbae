"""What would a token cost on an H200? Read from the decode loop compiled for one. A part of experiments.gpu_report."""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.compiled import traffic
from jaxgpt.config import GPTConfig
from jaxgpt.inference.programs import decode, prefill, tokens_per_turn
from jaxgpt.inference.settings import Settings, make_rules, row_seeds
from jaxgpt.inference.weights import cast_once
from jaxgpt.inspect.target import AOT_XLA_FLAGS, FOR_PALLAS, h200, no_driver
from jaxgpt.model.parameters import abstract_model, num_parameters
from jaxgpt.ops.platform import compiling_for


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

    rows = row.batch
    rules = make_rules(rows, [Settings(temperature=0)] * rows, row_seeds(0, rows), (), config.vocab_size)
    whole, tokens = abstract_model(config), np.zeros((rows, 1), np.int32)
    given = (tokens, np.ones(rows, np.int32), tokens[:, 0], np.zeros(rows, np.int32), np.zeros(rows, bool), rules)
    read = partial(prefill.__wrapped__, capacity=config.context_length, kind="greedy")
    with compiling_for("cuda"), no_driver(), jax.sharding.use_abstract_mesh(FOR_PALLAS):
        model = jax.eval_shape(cast_once, whole)
        state = jax.eval_shape(read, model, *given)[1]
        arguments = (*on_device((model, state)), rules, np.int32(new_tokens))
        lowered = decode.lower(*arguments, room=config.context_length, kind="greedy", fused=row.fused)
        turn = tokens_per_turn()
    compiled = lowered.compile(AOT_XLA_FLAGS)
    moved = traffic(compiled.as_text(), one_turn=True)
    least = 2 * num_parameters(whole) + sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state.cache))
    return {
        "batch": row.batch,
        "kernels": round(moved.kernels / turn),
        "megabytes": round(moved.gigabytes * 1e3 / turn),
        "least_megabytes": round(least / 1e6),
        "temporary_megabytes": round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
        "kinds": moved.kinds,
    }
