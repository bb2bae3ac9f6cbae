import numpy as np
import pytest

from converters.layouts import layout

SIZES = {"d": 5, "n": 4, "k": 2, "h": 3, "v": 7}
FUSED = "d (n h | k h | k h) -> d n h, d k h, d k h"


def test_a_fused_axis_holds_its_parts_in_a_row():
    tensor = np.arange(5 * 24).reshape(5, 24)
    query, key, value = layout(FUSED).split(tensor, SIZES)
    assert query[1, 2, 0] == tensor[1, 2 * 3]
    assert key[1, 1, 2] == tensor[1, 12 + 3 + 2]
    assert value[4, 0, 1] == tensor[4, 12 + 6 + 1]


@pytest.mark.parametrize(
    "text", [FUSED, "(n h) d -> n h d", "v d -> v d", "(n h | k h | k h) d -> d n h, d k h, d k h"]
)
def test_joining_undoes_splitting(text):
    tensor = np.random.default_rng(0).normal(size=layout(text).shape(SIZES))
    parts = layout(text).split(tensor, SIZES)
    np.testing.assert_array_equal(layout(text).join(parts, SIZES), tensor)
    assert all(np.shares_memory(part, tensor) for part in parts)  # nothing is read before it is used
