import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.rotary import rotate
from tests import reference

X = np.random.default_rng(0).normal(size=(2, 9, 3, 8)).astype(np.float32)


def at(position, x=X):
    return np.asarray(rotate(jnp.asarray(x), jnp.full(x.shape[:2], position, jnp.int32), 100.0), np.float64)


@pytest.mark.parametrize("shift", [1, 7, 900])
def test_scores_depend_on_distance_only(shift):
    near = (at(3) * at(5, X[::-1])).sum(-1)
    np.testing.assert_allclose(near, (at(3 + shift) * at(5 + shift, X[::-1])).sum(-1), atol=2e-4, rtol=0)
    assert np.abs(near - (at(3) * at(6, X[::-1])).sum(-1)).mean() > 0.1


def test_position_zero_is_left_alone_and_lengths_stay():
    np.testing.assert_array_equal(at(0), X)
    np.testing.assert_allclose((at(77) ** 2).sum(-1), (X**2).sum(-1), rtol=1e-5)


def test_rotation_is_its_float64_reference():
    positions = jnp.broadcast_to(jnp.arange(9)[None], (2, 9))
    np.testing.assert_allclose(
        rotate(jnp.asarray(X), positions, 100.0), reference.rotated(X.astype(np.float64), 100.0), atol=1e-5, rtol=0
    )


def test_bfloat16_is_turned_in_float32():
    exact = at(1000, np.asarray(jnp.asarray(X, jnp.bfloat16), np.float32))
    turned = rotate(jnp.asarray(X, jnp.bfloat16), jnp.full((2, 9), 1000), 100.0)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(turned, np.float64), exact, atol=0.02, rtol=0)
