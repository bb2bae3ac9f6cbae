"""Programs lowered for a TPU, which needs none: the blocked attention and the large chunks of a GPU's loss."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.inference.decode import decode_step
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import abstract_model
from jaxgpt.ops.platform import compiling_for
from jaxgpt.parallel.mesh import one_device
from jaxgpt.parallel.value_and_grad import value_and_grad

CONFIG = GPTConfig(500, 256, num_layers=1, num_heads=4, num_kv_heads=2, d_model=32, position="rotary", dtype="bfloat16")
TOKENS = jax.ShapeDtypeStruct((4, 257), jnp.int32)


def lowered(function, *arguments, platform="tpu") -> str:
    with compiling_for(platform):
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def training(config, platform="tpu") -> str:
    step = value_and_grad(next_token_loss, one_device())
    return lowered(step, abstract_model(config), TOKENS, platform=platform)


@pytest.mark.parametrize("window", [None, 40])
def test_a_training_step_for_a_tpu_has_blocked_attention_and_no_scores_of_all_pairs(window):
    text = training(dataclasses.replace(CONFIG, window=window))
    assert "256x256x" not in text  # blocks of 128 queries see 128 or 256 keys, with a window fewer
    assert f"x128x{128 if window is None else 128 + window - 1}xf32" in text


def test_the_loss_for_a_tpu_is_that_of_a_gpu():
    """Logits in the dtype of the model, and no scatter of the targets' rows."""
    on_tpu, on_cpu = training(CONFIG), training(CONFIG, "cpu")
    assert "tensor<1024x512xbf16>" in on_tpu
    assert "tensor<1024x512xf32>" not in on_cpu
    assert "tensor<1024x500xf32>" in on_cpu
    assert on_cpu.count('"stablehlo.scatter"') == on_tpu.count('"stablehlo.scatter"') + 1


def test_decoding_is_lowered_for_a_tpu():
    model = abstract_model(CONFIG)
    _, cache = jax.eval_shape(lambda m: GPT.prefill(m, jnp.zeros((1, 8), jnp.int32), jnp.array([8]), 64), model)
    text = lowered(decode_step, model, jax.ShapeDtypeStruct((1,), np.int32), cache)
    assert "tensor<8x32xbf16>" in text  # a single text is padded to the rows of a tile
    assert "custom_call" not in re.sub(r"@(Sharding|mhlo.\w+)", "", text) or "@__" not in text
