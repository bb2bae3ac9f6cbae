"""The kernels for NVIDIA GPUs, interpreted here, against the plain path; and compiled as far as a CPU can."""

import dataclasses
import importlib
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inference import fused
from jaxgpt.inference.generate import generate
from jaxgpt.inspect.target import FOR_PALLAS
from jaxgpt.model.cache import LayerCache
from jaxgpt.model.gpt import GPT
from jaxgpt.ops import decode_kernels as kernels
from jaxgpt.ops.attention import decode_attention
from jaxgpt.ops.platform import compiling_for
from tests.variants import BASELINE, VARIANTS, loud, text

# Three parts of 16, since Triton's arrays have sizes of a power of two; an epsilon that is lengths.
WIDE = {"d_model": 48, "d_mlp": 96, "layer_norm_epsilon": 0.1}


def read(config, rows):
    """A model, prompts of several lengths in its cache, and a token more of each."""
    model, lengths = loud(config), 1 + np.arange(rows) % 8
    _, cache = jax.jit(GPT.prefill, static_argnames="capacity")(model, text(config, 8, rows), lengths, capacity=20)
    return model, jnp.asarray(text(config, 1, rows, seed=1)[:, 0]), cache


def compare(config, rows, tolerance):
    given = read(config, rows)
    expected, found = (jax.jit(step)(*given) for step in (GPT.decode_step, fused.decode_step))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), found, expected)


@pytest.mark.parametrize(
    "variant", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name != "all")]
)
def test_few_texts_are_read_as_by_the_plain_path(variant):
    compare(dataclasses.replace(VARIANTS[variant], **WIDE), 2, 1e-4)


def test_many_texts_are_read_as_by_the_plain_path():
    compare(dataclasses.replace(VARIANTS["all"], **WIDE), kernels.MOST_ROWS + 1, 1e-4)


@pytest.mark.parametrize(
    "activation", ["gelu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("relu", "silu"))]
)
def test_every_activation_is_known_to_the_kernels(activation):
    compare(dataclasses.replace(BASELINE, num_layers=1, activation=activation, bias=False, **WIDE), 1, 1e-4)


def test_in_bfloat16_they_differ_by_roundings():
    config = dataclasses.replace(VARIANTS["rotary"], num_layers=1, **WIDE)
    given = read(dataclasses.replace(config, dtype="bfloat16"), 1)
    expected, found = (np.asarray(jax.jit(step)(*given)[0]) for step in (GPT.decode_step, fused.decode_step))
    exact = np.asarray(jax.jit(GPT.decode_step)(*read(config, 1))[0])
    assert np.abs(found - exact).mean() < 1.5 * np.abs(expected - exact).mean()


@pytest.mark.parametrize(("slots", "programs"), [(1, 132), (100, 132), (1000, 132), (1000, 1)])
def test_attention_joins_its_parts(slots, programs, monkeypatch):
    """A row sees one key, one nearly all, one all: some parts see nothing. With one program a row reads in turns."""
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(3, 4, 16)) * 5, jnp.float32)
    cache = LayerCache(*(jnp.asarray(rng.normal(size=(3, slots, 2, 16)), jnp.float32) for _ in range(2)))
    lengths = jnp.asarray([1, max(1, slots - 1), slots])
    found = kernels.decode_attention(q, cache, lengths, scale=0.25)
    np.testing.assert_allclose(
        found, decode_attention(q[:, None], *cache, lengths, scale=0.25)[:, 0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("rows", [1, kernels.MOST_ROWS + 1])
def test_the_kernels_are_lowered_for_a_gpu(rows):
    config = dataclasses.replace(
        VARIANTS["all"], d_model=384, num_heads=6, num_kv_heads=2, context_length=256, dtype="bfloat16"
    )
    model, cache = jax.eval_shape(lambda: loud_cache(config, rows))
    tokens = jax.ShapeDtypeStruct((rows,), jnp.int32)
    with warnings.catch_warnings(), compiling_for("cuda"), jax.sharding.use_abstract_mesh(FOR_PALLAS):
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pallas' Triton backend, from jax 0.12 on
        traced = jax.jit(fused.decode_step).trace(model, tokens, cache)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    each = 4 if rows == 1 else 1
    assert lowered.count("@__gpu$xla.gpu.triton(") == each * config.num_layers


def loud_cache(config, rows):
    model = loud(config)
    return model, model.prefill(jnp.zeros((rows, 8), jnp.int32), jnp.full(rows, 8), 200)[1]


def test_a_jax_without_the_triton_backend_is_told_what_to_do(monkeypatch):
    monkeypatch.delitem(sys.modules, "jaxgpt.ops.decode_kernels")
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    monkeypatch.delattr("jax.experimental.pallas.triton")
    with pytest.raises(
        ValueError, match=r"needs Pallas' Triton backend, which jax .* decode by cuDNN: attention='cudnn'"
    ):
        importlib.import_module("jaxgpt.ops.decode_kernels")


def test_where_the_kernels_cannot_run_they_are_refused():
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        generate(loud(dataclasses.replace(BASELINE, d_model=128)), [[1]], 1, fused=True)
    with pytest.raises(ValueError, match="needs a head size of 32, 64, 128 or 256, not 48"):
        fused.check(dataclasses.replace(BASELINE, d_model=192))
    with pytest.raises(ValueError, match="needs a multiple of 32, not d_mlp=100"):
        fused.check(dataclasses.replace(BASELINE, d_model=128, d_mlp=100))
