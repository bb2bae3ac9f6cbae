import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.ops.gelu import ACTIVATIONS, recompute_in_backward
from jaxgpt.ops.layer_norm import layer_norm
from jaxgpt.ops.residual import barrier_copies
from jaxgpt.ops.softmax import softmax

EPSILON = 1e-5


def plain_norm(x, scale, bias):
    """LayerNorm as one would write it first, in x's type."""
    centred = x - x.mean(axis=1, keepdims=True)
    unit = centred / jnp.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON)
    return unit * scale[None, :] + (0 if bias is None else bias[None, :])


def inputs(dtype=jnp.float32):
    random = np.random.default_rng(0)
    x, aim = (jnp.asarray(random.normal(size=(37, 24)) + 3, dtype) for _ in range(2))
    scale, bias = (jnp.asarray(random.normal(size=24), jnp.float32) for _ in range(2))
    return x, scale, bias, aim.astype(jnp.float32)


@pytest.mark.parametrize("biased", [True, False])
def test_the_gradients_of_layer_norm_are_those_of_the_plain_one(biased):
    x, scale, bias, aim = inputs()
    values = (x, scale, bias) if biased else (x, scale)

    def gradients(norm):
        return jax.jit(jax.grad(lambda x, s, *b: (norm(x, s, *b or (None,)) * aim).sum(), tuple(range(len(values)))))

    ours = gradients(lambda x, s, b: layer_norm(x, s, b, EPSILON))(*values)
    for mine, plain in zip(ours, gradients(plain_norm)(*values), strict=True):
        np.testing.assert_allclose(mine, plain, atol=2e-5, rtol=2e-5)


def test_layer_norm_in_bfloat16_has_float32_statistics_and_parameter_gradients():
    x, scale, bias, aim = inputs(jnp.bfloat16)
    _, pull = jax.vjp(lambda *a: layer_norm(*a, EPSILON), x, scale, bias)
    d_x, d_scale, d_bias = pull(aim.astype(jnp.bfloat16))
    assert (d_x.dtype, d_scale.dtype, d_bias.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    wide = x.astype(jnp.float32)
    exact = jax.vjp(plain_norm, wide, scale, bias)[1](aim.astype(jnp.bfloat16).astype(jnp.float32))
    for mine, true in zip((d_x, d_scale, d_bias), exact, strict=True):
        np.testing.assert_allclose(mine.astype(jnp.float32), true, atol=0.01 * np.abs(true).max())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_keeps_its_input_and_its_derivative(name):
    x = jnp.linspace(-4, 4, 102)  # none of them zero, where relu has no derivative
    _, pull = jax.vjp(recompute_in_backward(ACTIVATIONS[name]), x)
    kept = [leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1]
    assert len(kept) == 1
    np.testing.assert_array_equal(kept[0], x)
    step = 1e-3
    slope = (ACTIVATIONS[name](x + step) - ACTIVATIONS[name](x - step)) / (2 * step)
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0], slope, atol=1e-3)


def test_keeping_the_input_changes_no_derivative():
    x = jnp.linspace(-4, 4, 101)
    plain, frugal = (jax.jit(jax.vmap(jax.grad(f))) for f in (jnp.tanh, recompute_in_backward(jnp.tanh)))
    np.testing.assert_allclose(frugal(x), plain(x), rtol=1e-6, atol=1e-7)


def test_softmax_keeps_its_result_alone_and_has_its_derivative():
    x, aim = (jnp.asarray(np.random.default_rng(0).normal(size=(5, 7)), jnp.float32) for _ in range(2))
    x = x.at[:, 3].set(jnp.finfo(jnp.float32).min)  # a key that must not be seen
    weights, pull = jax.vjp(softmax, x)
    (kept,) = (leaf for leaf in jax.tree.leaves(pull) if leaf.size > 1)
    np.testing.assert_array_equal(kept, weights)
    wide = np.exp(np.asarray(x, np.float64) - np.asarray(x, np.float64).max(axis=1, keepdims=True))
    wide /= wide.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(weights, wide, atol=1e-7)
    exact = [
        (np.diag(row) - np.outer(row, row)) @ to for row, to in zip(wide, np.asarray(aim, np.float64), strict=True)
    ]
    np.testing.assert_allclose(pull(aim)[0], exact, atol=1e-7)


def test_what_is_apart_comes_together_in_the_gradient():
    x = jnp.arange(4.0)
    for name in barrier_copies(x, 3):
        np.testing.assert_array_equal(name, x)

    def use(x):
        first, second, third = barrier_copies(x, 3)
        return (first + 10 * second + 100 * third).sum()

    np.testing.assert_array_equal(jax.grad(use)(x), np.full(4, 111.0))
