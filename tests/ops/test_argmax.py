import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.ops.argmax import argmax
from jaxgpt.ops.platform import compiling_for

NUMBERS = st.one_of(st.sampled_from([0.0, -0.0, np.inf, -np.inf]), st.floats(-3, 3, width=32, allow_subnormal=False))


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_it_is_the_first_of_the_largest_as_numpy_has_it(numbers):
    row = np.array(numbers, np.float32)
    assert int(argmax(jnp.asarray(row))) == int(np.argmax(row))


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_rows_have_theirs_on_every_platform(platform):
    logits = np.random.default_rng(0).integers(0, 5, (3, 4, 50)).astype(np.float32)
    with compiling_for(platform):
        found = jax.jit(lambda x: argmax(x))(logits)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, logits.argmax(axis=-1))


def test_a_row_with_a_nan_gives_an_index_that_there_is():
    rows = np.array([[np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [np.nan] * 3], np.float32)
    assert set(np.asarray(argmax(jnp.asarray(rows))).tolist()) <= {0, 1, 2}
