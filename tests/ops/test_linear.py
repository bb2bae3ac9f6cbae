import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inspect.hlo import computations
from jaxgpt.ops.linear import linear
from jaxgpt.ops.platform import compiling_for


def operands(rows=48, inputs=32, outputs=64):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.bfloat16) for shape in ((rows, inputs), (inputs, outputs))]


def test_bfloat16_products_and_their_gradients_are_rounded_once():
    x, kernel = operands()
    y, vjp = jax.vjp(linear, x, kernel)
    exact = [np.asarray(array, np.float64) for array in (x, kernel, y)]
    for ours, expected in (
        (y, exact[0] @ exact[1]),
        (vjp(y)[0], exact[2] @ exact[1].T),
        (vjp(y)[1], exact[0].T @ exact[2]),
    ):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), expected, rtol=2**-8, atol=1e-4 * np.abs(expected).max()
        )


def test_on_a_cpu_no_operand_of_a_bfloat16_product_is_widened(optimised):
    x, kernel = operands()
    program = jax.jit(lambda x, kernel: jax.vjp(linear, x, kernel)[1](linear(x, kernel))).lower(x, kernel).compile()
    bodies, _ = computations(program.as_text())
    products = [lines for lines in bodies.values() if any(" dot(" in line for line in lines)]
    operands_of = [sorted(re.findall(r"= (\w+)\[[\d,]*\]\S* parameter", "\n".join(lines))) for lines in products]
    assert operands_of == [["bf16", "bf16"]] * 3


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_a_bfloat16_product_is_one_operation(platform):
    x, kernel = operands()
    with compiling_for(platform):
        program = jax.make_jaxpr(lambda x, kernel: linear(x, kernel))(x, kernel)
    assert [equation.primitive.name for equation in program.eqns] == ["dot_general"]
