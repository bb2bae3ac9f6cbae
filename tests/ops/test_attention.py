import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT, Attention
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import abstract_model
from jaxgpt.ops.attention import BACKENDS, blocked, blocked_loop, select_backend
from jaxgpt.ops.attention.backends import cudnn
from jaxgpt.ops.platform import compiling_for, on_gpu, target_platform
from jaxgpt.parallel.mesh import make_mesh
from jaxgpt.parallel.sharding import shard
from jaxgpt.parallel.value_and_grad import value_and_grad
from tests import reference
from tests.runs import quick
from tests.variants import loud, text

HERE = ["xla", "blocked"]  # the backends that run on a CPU
W = 5


LOOPED = "blocked, looped"


@pytest.fixture(params=["xla", "blocked", LOOPED])
def form(request, monkeypatch):
    """A backend that runs on a CPU; blocks have 4 queries, so that a short text has several."""
    return _with_small_blocks(request.param, monkeypatch)


@pytest.fixture(params=["blocked", LOOPED])
def blocked_form(request, monkeypatch):
    return _with_small_blocks(request.param, monkeypatch)


def _with_small_blocks(name, monkeypatch):
    monkeypatch.setattr(blocked, "BLOCK", 4)
    monkeypatch.setattr(blocked_loop, "BLOCK", 4)
    monkeypatch.setattr(blocked, "MAX_BLOCKS", 0 if name == LOOPED else 32)
    return "blocked" if name == LOOPED else name


def heads(length, num_heads=4, kv_heads=2, batch=2, size=6):
    random = np.random.default_rng(0)
    shapes = [(batch, length, count, size) for count in (num_heads, kv_heads, kv_heads)]
    return [jnp.asarray(2 * random.normal(size=shape), jnp.float32) for shape in shapes]


def attention(name, window, scale=0.4):
    return partial(BACKENDS[name], window=window, scale=scale, dropout_rate=0.0, dropout_key=None)


@pytest.mark.parametrize("window", [None, 1, 5, 40])
@pytest.mark.parametrize(("length", "kv_heads"), [(1, 2), (13, 1), (13, 2), (13, 4)])
def test_attention_is_its_float64_reference(form, window, length, kv_heads):
    q, k, v = heads(length, kv_heads=kv_heads)
    expected = reference.attention(*(np.asarray(x, np.float64) for x in (q, k, v)), window=window, scale=0.4)
    np.testing.assert_allclose(quick(attention(form, window))(q, k, v), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("length", [W - 1, W + 1, 3 * W + 1])
def test_a_window_sees_exactly_as_many_keys_as_it_says(form, length):
    q, k, v = heads(length, batch=1)
    t, s = np.arange(length)[:, None], np.arange(length)[None, :]
    seen = (s <= t) & (t - s < W)
    mixed = partial(attention(form, W), q)
    by_key, by_value = jax.jit(jax.jacobian(lambda k, v: mixed(k, v)[0].sum(axis=(1, 2)), argnums=(0, 1)))(k, v)
    np.testing.assert_array_equal(np.abs(by_value).sum(axis=(1, 3, 4)) > 0, seen)
    alone = seen & (t > 0)  # the only key of a query has weight 1 whatever it is; the rounding of its gradient is left
    np.testing.assert_array_equal(np.abs(by_key).sum(axis=(1, 3, 4)) > 1e-5, alone)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", ["xla", "auto"])
def test_a_layer_looks_back_as_far_as_its_window_says(layer, name):
    config = GPTConfig(num_layers=3, num_heads=2, d_model=8, window=(4, 2, None), attention=name)
    attn = Attention(config, layer, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (1, 11, 8))
    positions = jnp.arange(11)[None]
    reach = np.abs(jax.jit(jax.jacobian(lambda x: attn(x, positions)[0][0]))(x)).sum(axis=(1, 2, 4)) > 0
    expected = np.tril(np.ones((11, 11), bool)) & ~np.tril(np.ones((11, 11), bool), -(4, 2, 11)[layer])
    np.testing.assert_array_equal(reach, expected)


@pytest.mark.parametrize(("window", "kv_heads"), [(None, 1), (None, 4), (1, 2), (W, 2), (40, 2)])
def test_blocked_gradients_are_those_of_xla(window, kv_heads, blocked_form):
    q, k, v = heads(3 * W + 2, kv_heads=kv_heads)
    aim = jax.random.normal(jax.random.key(0), q.shape)

    def gradients(name):
        return jax.jit(jax.grad(lambda *x: (attention(name, window)(*x) * aim).sum(), argnums=(0, 1, 2)))(q, k, v)

    for ours, plain in zip(gradients("blocked"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, plain, atol=3e-5, rtol=0)


def test_blocked_drops_weights_and_differentiates_what_it_dropped(blocked_form):
    q, k, v = heads(11)
    rate, keys = 0.4, jax.random.split(jax.random.key(3), 2)
    run = partial(BACKENDS["blocked"], window=None, scale=0.4, dropout_rate=rate, dropout_key=keys)
    ones = jnp.ones_like(v)
    kept = np.asarray(run(q, k, ones)[..., 0])  # of each query the weights that are left, scaled up: not all of them
    assert np.abs(kept - 1).max() > 0.1
    assert abs(kept.mean() - 1) < 0.2
    aim, step = jax.random.normal(jax.random.key(0), q.shape), 1e-2
    value = jax.jit(lambda *x: (run(*x) * aim).sum())
    gradients = jax.jit(jax.grad(value, argnums=(0, 1, 2)))(q, k, v)
    for at, gradient in enumerate(gradients):
        way = jax.random.normal(jax.random.key(at), gradient.shape)
        moved = [[x + sign * step * way if n == at else x for n, x in enumerate((q, k, v))] for sign in (1, -1)]
        numeric = (value(*moved[0]) - value(*moved[1])) / (2 * step)
        np.testing.assert_allclose((gradient * way).sum(), numeric, rtol=5e-3, atol=2e-2)


def test_every_block_drops_by_a_mask_of_its_own(blocked_form):
    q, k, v = (jnp.ones((1, 12, 1, 2)) for _ in range(3))
    run = partial(
        BACKENDS["blocked"], window=1, scale=1.0, dropout_rate=0.5, dropout_key=jax.random.split(jax.random.key(0), 1)
    )
    kept = np.asarray(run(q, k, v)[0, :, 0, 0] > 0).reshape(3, 4)
    assert len({tuple(block) for block in kept}) > 1


def test_blocked_attention_never_holds_all_scores(blocked_form):
    q, k, v = (jax.ShapeDtypeStruct((1, 64, n, 6), jnp.float32) for n in (4, 2, 2))

    def gradient(name):
        return jax.grad(lambda *x: attention(name, 4)(*x).sum(), argnums=(0, 1, 2))

    sizes = {name: largest(jax.make_jaxpr(gradient(name))(q, k, v).jaxpr) for name in HERE}
    assert sizes["xla"] == 4 * 64 * 64
    assert sizes["blocked"] == 4 * 64 * 6  # the queries, not their scores


@pytest.mark.slow
def test_banded_attention_and_its_gradients_are_those_of_xla():
    q, k, v = heads(3 * W + 2)
    aim = jax.random.normal(jax.random.key(0), q.shape)
    for window in (1, W, 40):
        names = ("banded", "xla")
        banded, xla = (jax.jit(jax.vjp, static_argnums=0)(attention(name, window), q, k, v) for name in names)
        np.testing.assert_allclose(banded[0], xla[0], atol=1e-5, rtol=0)
        for ours, plain in zip(banded[1](aim), xla[1](aim), strict=True):
            np.testing.assert_allclose(ours, plain, atol=2e-5, rtol=0)


def test_banded_attention_never_holds_all_scores():
    q, k, v = (jax.ShapeDtypeStruct((1, 64, n, 6), jnp.float32) for n in (4, 2, 2))
    assert largest(jax.make_jaxpr(attention("banded", 4))(q, k, v).jaxpr) == 4 * 64 * 2 * 4


def test_banded_needs_a_window():
    with pytest.raises(ValueError, match="attention='banded' needs a window in every layer; .* attention='xla'"):
        GPTConfig(num_layers=2, window=(5, None), attention="banded")
    assert GPTConfig(num_layers=1, window=(5, None), attention="banded").windows == (5,)


@pytest.mark.slow
def test_blocked_attention_with_dropout_is_the_same_on_every_mesh(blocked_form):
    config = GPTConfig.preset("tiny", attention="blocked", dropout=0.2, num_kv_heads=2, window=(7, None))
    model, tokens = loud(config), jnp.asarray(text(config, length=14, batch=8))
    results = []
    for data, fsdp in ((1, 1), (2, 4)):
        mesh = make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        step = jax.jit(value_and_grad(next_token_loss, mesh, remat="block"))
        (loss, _), _, norm = step(shard(model, mesh), tokens, jax.random.key(0))
        results.append((float(loss), float(norm)))
    np.testing.assert_allclose(*results, rtol=1e-5)


def largest(jaxpr):
    inner = [largest(sub) for eqn in jaxpr.eqns for sub in jaxprs_in_params(eqn.params)]
    return max([var.aval.size for eqn in jaxpr.eqns for var in eqn.outvars] + inner)


def test_a_long_text_is_a_small_program():
    def equations(length):
        q, k, v = (jax.ShapeDtypeStruct((1, length, n, 8), jnp.float32) for n in (4, 2, 2))
        return len(str(jax.make_jaxpr(jax.grad(lambda *x: attention("blocked", None)(*x).sum()))(q, k, v)))

    assert equations(2**16) < 1.2 * equations(2**15)


@pytest.fixture
def imagined_gpu(monkeypatch):
    """Lets the cuDNN call be lowered, though not run, where there is neither GPU nor cuDNN."""
    module = "jax._src.cudnn.fused_attention_stablehlo."
    monkeypatch.setattr(module + "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(module + "check_compute_capability", lambda least: True)
    monkeypatch.setattr(module + "is_cuda_compute_capability_equal", lambda value: False)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("backward", [False, True])
def test_cudnn_is_told_to_be_causal_and_how_far_to_look_back(window, backward, imagined_gpu):
    q, k, v = (jax.ShapeDtypeStruct((2, 64, n, 16), jnp.bfloat16) for n in (4, 2, 2))
    run = partial(cudnn, window=window, scale=0.4, dropout_rate=0.0, dropout_key=None)
    function = jax.grad(lambda *x: run(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2)) if backward else run
    program = jax.jit(function).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
    calls = program.count("custom_call @__cudnn$fmha")
    assert calls == (2 if backward else 1)
    assert program.count('"mask_type": "CAUSAL"') == calls
    assert program.count(f'"sliding_window_length": {window or 0}') == calls
    assert program.count('"fmha_scale": 0.4') == calls
    assert "64x64" not in program


def test_a_model_compiled_for_cuda_has_cudnn_in_every_layer(imagined_gpu):
    config = GPTConfig.preset("tiny", num_layers=3, d_model=32, dtype="bfloat16", window=(8, None, 4))
    model, tokens = abstract_model(config), jax.ShapeDtypeStruct((2, 25), jnp.int32)
    with compiling_for("cuda"):
        traced = jax.jit(jax.value_and_grad(next_token_loss)).trace(model, tokens)
    program = traced.lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
    assert program.count("custom_call @__cudnn$fmhaSoftmaxBackward(") == 3
    assert program.count("custom_call @__cudnn$fmha") == 6
    assert [program.count(f'"sliding_window_length": {window}') for window in (0, 4, 8)] == [2, 2, 2]
    assert "24x24" not in program  # nowhere all scores


def test_a_prompt_compiled_for_cuda_is_read_by_cudnn_too_and_decoding_where_it_is_asked_for(imagined_gpu):
    config = GPTConfig.preset("tiny", num_layers=3, d_model=32, dtype="bfloat16", window=(8, None, 4))
    texts = jax.ShapeDtypeStruct((2, 24), jnp.int32), jax.ShapeDtypeStruct((2,), jnp.int32)

    def lowered(function, *given):
        with compiling_for("cuda"):
            traced = jax.jit(lambda *given: function(*given)).trace(*given)
        program = traced.lower(lowering_platforms=("cuda",)).as_text().replace("\\22", '"')
        masks = [program.count(f'"mask_type": "{mask}"') for mask in ("CAUSAL", "PADDING")]
        return program.count("custom_call @__cudnn$fmha"), masks

    for name, decoding in (("auto", (0, [0, 0])), ("cudnn", (3, [0, 3]))):
        model = abstract_model(dataclasses.replace(config, attention=name))
        prefill = partial(GPT.prefill, capacity=32)
        assert lowered(prefill, model, *texts) == (3, [3, 0])
        with compiling_for("cuda"):
            _, cache = jax.eval_shape(prefill, model, *texts)
        assert lowered(GPT.decode_step, model, texts[1], cache) == decoding


def test_compiling_for_a_platform_ends_with_its_block():
    here = target_platform()
    with compiling_for("cuda"):
        assert on_gpu()
        with compiling_for("cpu"):
            assert target_platform() == "cpu"
        assert target_platform() == "cuda"
    assert target_platform() == here


GOOD = {"platform": "gpu", "dtype": "bfloat16", "head_dim": 64, "length": 100, "dropout": 0.0}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"platform": "cpu"}, "the platform is cpu, not an NVIDIA GPU"),
        ({"dtype": "float32"}, "dtype=float32 is not bfloat16"),
        ({"head_dim": 12}, "the head size 12 is not a multiple of 8"),
        ({"head_dim": 264}, "the head size 264 is not a multiple of 8 up to 256"),
        ({"dropout": 0.1}, "dropout=0.1 is not 0"),
    ],
)
def test_cudnn_by_name_never_falls_back(change, why):
    with pytest.raises(ValueError, match=f"attention='cudnn' cannot run here: {why}.*attention='auto'"):
        select_backend("cudnn", **GOOD | change)
    assert select_backend("auto", **GOOD | change | {"length": 129}) == "blocked"


@pytest.mark.parametrize(
    ("name", "change", "chosen"),
    [
        ("auto", {}, "cudnn"),
        ("cudnn", {}, "cudnn"),
        ("xla", {}, "xla"),
        ("blocked", {}, "blocked"),
        ("banded", {}, "banded"),
        ("auto", {"platform": "cpu", "length": 129}, "blocked"),
        ("auto", {"platform": "cpu", "length": 128}, "xla"),
    ],
)
def test_the_backend_is_chosen_by_name(name, change, chosen):
    assert select_backend(name, **GOOD | change) == chosen


def test_a_model_that_asks_for_cudnn_says_why_it_cannot():
    config = GPTConfig.preset("tiny", attention="cudnn", dtype="bfloat16")
    with pytest.raises(ValueError, match="attention='cudnn' cannot run here: the platform is cpu"):
        loud(config)(jnp.asarray(text(config)))


def test_float32_scores_of_bfloat16_heads():
    q, k, v = (x.astype(jnp.bfloat16) for x in heads(13))
    for name in HERE:
        out = attention(name, 5)(q, k, v)
        assert out.dtype == jnp.bfloat16
        exact = reference.attention(*(np.asarray(x, np.float64) for x in (q, k, v)), window=5, scale=0.4)
        np.testing.assert_allclose(np.asarray(out, np.float64), exact, atol=0.05, rtol=0)


def test_banded_pads_a_text_shorter_than_the_window_to_no_more_than_itself():
    q, k, v = (jax.ShapeDtypeStruct((1, 16, n, 6), jnp.float32) for n in (4, 2, 2))
    assert largest(jax.make_jaxpr(attention("banded", 20000))(q, k, v).jaxpr) == 4 * 16 * 2 * 16
