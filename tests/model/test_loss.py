import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.ops.cross_entropy import cross_entropy
from jaxgpt.ops.platform import compiling_for
from tests.variants import BASELINE, loud, text

cross_entropy_module = sys.modules["jaxgpt.ops.cross_entropy"]
V, PADDED, D = 29, 40, 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(cross_entropy_module, "CHUNK", 8)
    monkeypatch.setattr(cross_entropy_module, "GPU_CHUNK", 8)


@pytest.fixture(params=["cpu", "cuda"])
def each_form(request):
    """Runs the test with the loss as each platform computes it; its name."""
    with compiling_for(request.param):
        yield request.param


def inputs(tokens, dtype=jnp.float32):
    random = np.random.default_rng(tokens)
    x = jnp.asarray(2 * random.normal(size=(tokens, D)), dtype)
    return x, jnp.asarray(random.normal(size=(PADDED, D)), jnp.float32), jnp.asarray(random.integers(0, V, tokens))


def exact(x, table, targets):
    """Summed loss and its gradients in float64, by hand."""
    x, table = np.asarray(x, np.float64), np.asarray(table, np.float64)[:V]
    logits = x @ table.T
    logits -= logits.max(axis=1, keepdims=True)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    total = -np.log(probability[rows, targets]).sum()
    probability[rows, targets] -= 1
    return total, probability @ table, np.pad(probability.T @ x, ((0, PADDED - V), (0, 0)))


def plain(x, table, targets):
    """The loss as one would write it first, differentiated by jax."""
    return -jax.nn.log_softmax(x @ table[:V].T)[jnp.arange(len(x)), targets].sum()


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 17])
def test_chunked_loss_and_gradients_are_exact(tokens, each_form):
    x, table, targets = inputs(tokens)
    total, d_x, d_table = exact(x, table, targets)
    np.testing.assert_allclose(cross_entropy(x, table, targets, V), total, rtol=1e-6)
    ours = jax.jit(lambda x, table: jax.value_and_grad(lambda *a: 3 * cross_entropy(*a, targets, V), (0, 1))(x, table))
    value, (by_x, by_table) = ours(x, table)
    np.testing.assert_allclose(value, 3 * total, rtol=1e-6)
    np.testing.assert_allclose(by_x, 3 * d_x, atol=3e-5)
    np.testing.assert_allclose(by_table, 3 * d_table, atol=3e-5)
    np.testing.assert_array_equal(by_table[V:], 0)
    auto_x, auto_table = jax.jit(jax.grad(plain, (0, 1)))(x, table, targets)
    np.testing.assert_allclose(by_x, 3 * auto_x, atol=3e-5)
    np.testing.assert_allclose(by_table, 3 * auto_table, atol=3e-5)


def test_a_weight_scales_the_loss_and_its_gradients(each_form):
    x, table, targets = inputs(9)
    targets = targets.at[4].set(-1)
    both = jax.value_and_grad(cross_entropy, (0, 1))
    value, gradients = both(x, table, targets, V, 0.3)
    whole, wanted = both(x, table, targets, V)
    np.testing.assert_allclose(value, 0.3 * whole, rtol=1e-6)
    for ours, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(ours, 0.3 * other, atol=1e-6)


def test_bfloat16_gradients_have_the_right_size(each_form):
    x, table, targets = inputs(77, jnp.bfloat16)
    _, d_x, d_table = exact(x, jnp.asarray(table, jnp.bfloat16), targets)
    by_x, by_table = jax.grad(lambda *a: cross_entropy(*a, targets, V) / 77, (0, 1))(x, table)
    assert (by_x.dtype, by_table.dtype) == (jnp.bfloat16, jnp.float32)
    for ours, true in ((by_x, d_x / 77), (by_table, d_table / 77)):
        ours = np.asarray(ours, np.float64)
        np.testing.assert_allclose(ours, true, atol=0.01 * np.abs(true).max())
        assert abs((ours * true).sum() / (true * true).sum() - 1) < 1e-3  # 1/77 in bfloat16 is off by 2.7e-3


def test_only_one_chunk_of_logits_exists(each_form, monkeypatch):
    monkeypatch.setattr(cross_entropy_module, "CHUNK", 16)
    monkeypatch.setattr(cross_entropy_module, "GPU_CHUNK", 16)
    x, table, targets = inputs(32)
    program = jax.jit(jax.grad(lambda *a: cross_entropy(*a, targets, V), (0, 1))).lower(x, table).compile().as_text()
    sizes = {int(np.prod([int(n) for n in dims.split(",")])) for dims in re.findall(r"f32\[([\d,]+)\]", program)}
    assert max(sizes) == 16 * {"cpu": V, "cuda": PADDED}[each_form]


def test_on_a_gpu_nothing_is_scattered_and_no_float32_logits_are_multiplied():
    x, table, targets = inputs(32, jnp.bfloat16)
    with compiling_for("cuda"):
        program = jax.jit(jax.grad(lambda *a: cross_entropy(*a, targets, V), (0, 1))).lower(x, table).as_text()
    assert "scatter" not in program
    products = re.findall(r"stablehlo.dot_general.*: \((.*)\) ->", program)
    assert len(products) == 3
    assert not any("f32" in product.replace("bf16", "") for product in products)


def test_the_training_loss_is_the_mean_over_next_tokens():
    model, tokens = loud(dataclasses.replace(BASELINE, num_layers=1)), jnp.asarray(text(BASELINE))
    logp = jax.nn.log_softmax(jax.jit(GPT.__call__)(model, tokens[:, :-1]))
    expected = -np.take_along_axis(np.asarray(logp), np.asarray(tokens)[:, 1:, None], axis=-1).mean()
    value, gradient = jax.jit(jax.value_and_grad(next_token_loss))(model, tokens)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient.embed[...][BASELINE.vocab_size :], 0)
    assert np.abs(gradient.embed[...][: BASELINE.vocab_size]).min(axis=0).max() > 0


def test_a_target_below_zero_counts_for_nothing(each_form):
    """Loss and gradients are those of the other tokens alone; in a chunk with others, and a chunk of masked ones."""
    x, table, targets = inputs(24)
    masked = jnp.where(jnp.arange(24) % 3 == 0, -1, targets).at[8:16].set(-1)
    kept = np.flatnonzero(masked >= 0)
    gradient = jax.value_and_grad(cross_entropy, (0, 1))
    value, (by_x, by_table) = gradient(x, table, masked, V)
    expected, (wanted_x, wanted_table) = gradient(x[kept], table, targets[kept], V)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(by_x[kept], wanted_x, atol=1e-5)
    np.testing.assert_array_equal(np.delete(np.asarray(by_x), kept, axis=0), 0)
    np.testing.assert_allclose(by_table, wanted_table, atol=1e-5)
    np.testing.assert_allclose(cross_entropy(x, table, masked, V), expected, rtol=1e-6)
