"""The models that the laws are tested on: each switch alone, and all together; small, with loud weights."""

import dataclasses
import zlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model

BASELINE = GPTConfig(vocab_size=61, context_length=32, num_layers=2, num_heads=4, d_model=32)
VARIANTS = {
    "baseline": BASELINE,
    "rotary": dataclasses.replace(BASELINE, position="rotary"),
    "grouped": dataclasses.replace(BASELINE, num_kv_heads=2),
    "multi-query": dataclasses.replace(BASELINE, num_kv_heads=1),
    "windowed": dataclasses.replace(BASELINE, window=5),
    "all": dataclasses.replace(BASELINE, position="rotary", num_kv_heads=2, window=(5, None)),
}
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)

TINY = GPTConfig.preset("tiny")
GGUF_VARIANTS = {
    "gpt2": TINY,
    "multi-query": dataclasses.replace(TINY, num_kv_heads=1),
    "grouped": dataclasses.replace(TINY, num_kv_heads=2),
    "rotary": dataclasses.replace(TINY, position="rotary", num_kv_heads=2, rope_theta=500.0),
    "untied": dataclasses.replace(TINY, tie_embeddings=False, d_mlp=96, layer_norm_epsilon=1e-3),
    "without biases": dataclasses.replace(TINY, bias=False),
}
"""What llama.cpp can run."""


def loud(config: GPTConfig) -> GPT:
    """A model whose every parameter is random, and large enough that each head and bias moves the output."""
    return jax.tree.map(lambda leaf: leaf, _loud(config))  # a copy, which a test may change


@cache
def _loud(config: GPTConfig) -> GPT:

    def fill(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=leaf.shape)
        if name in ("embed", "head"):
            values[config.vocab_size :] = 0
        elif name.endswith("kernel"):
            inputs = leaf.size / config.d_model if "out" in name or "down" in name else config.d_model
            values *= 2 / inputs**0.5
        elif name.endswith("scale"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values *= 0.2
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, abstract_model(config))


def forward(model: GPT, tokens: np.ndarray) -> jax.Array:
    """Logits, by single operations: those are compiled once for all variants."""
    return model(jnp.asarray(tokens))


@cache
def logits(config: GPTConfig) -> np.ndarray:
    return np.asarray(forward(loud(config), text(config)))


def text(config: GPTConfig, length: int = 24, batch: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length), dtype=np.int32)
