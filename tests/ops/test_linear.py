import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.inspect.hlo import computations
from jaxgpt.ops.cross_entropy import cross_entropy
from jaxgpt.ops.linear import linear
from jaxgpt.ops.platform import compiling_for
from jaxgpt.ops.row_product import row_product


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


def test_the_gradient_of_a_float32_bias_is_summed_in_float32():
    x, kernel = operands(rows=1024)
    d_y = jnp.asarray(np.random.default_rng(1).normal(size=(1024, 64)), jnp.bfloat16)
    (found,) = jax.vjp(lambda bias: linear(x, kernel, bias), jnp.ones((1, 64)))[1](d_y)
    np.testing.assert_allclose(found[0], np.asarray(d_y, np.float64).sum(axis=0), atol=1e-4)


def test_on_a_cpu_no_operand_of_a_bfloat16_product_is_widened(optimised):
    x, kernel = operands()
    assert products(lambda x, kernel: jax.vjp(linear, x, kernel)[1](linear(x, kernel)), x, kernel) == 3 * ["bf16 bf16"]


def test_on_a_cpu_neither_is_one_of_the_loss(optimised):
    x, table = operands(48, 64, 64)

    def loss(x, table):
        return cross_entropy(x, table, jnp.arange(48), 64)

    found = products(jax.value_and_grad(loss, (0, 1)), x, table)
    assert found == 3 * ["bf16 bf16"]


def products(function, *arguments) -> list[str]:
    """The types of the operands of each product of the compiled function."""
    bodies, _ = computations(jax.jit(function).lower(*arguments).compile().as_text())
    found = []
    for lines in bodies.values():
        types = dict(re.findall(r"%([\w.-]+) = (\w+)\[", "\n".join(lines)))
        found += [
            [types[name] for name in pair] for pair in re.findall(r" dot\(%([\w.-]+), %([\w.-]+)\)", "\n".join(lines))
        ]
    return [" ".join(pair) for pair in found]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_elsewhere_a_bfloat16_product_is_one_operation(platform):
    x, kernel = operands()
    with compiling_for(platform):
        program = jax.make_jaxpr(lambda x, kernel: linear(x, kernel))(x, kernel)
    assert [equation.primitive.name for equation in program.eqns] == ["dot_general"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("inputs", [48, 7, 1])
def test_the_product_of_one_row_is_that_of_float64(dtype, inputs):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(1, inputs)), jnp.float32)
    kernel = jnp.asarray(40 * random.normal(size=(inputs, 33)), dtype)
    y = jax.jit(row_product)(x, kernel)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_a_loop_over_tokens_reads_its_weights_as_they_are(optimised):
    """Else XLA widens them once before the loop, and each token reads float32."""

    def decode(x, kernel):
        return jax.lax.fori_loop(0, 9, lambda _, x: linear(x, kernel), x)

    program = jax.jit(decode).lower(jnp.ones((1, 64)), jnp.ones((64, 64), jnp.int8)).compile().as_text()
    loop = next(line for line in program.splitlines() if " while(" in line)
    assert "s8[64,64]" in loop
    assert "f32[64,64]" not in program.split("ENTRY")[1]


SUMS = """
import jax, jax.numpy as jnp
from jaxgpt.ops.platform import platform_jit
from jaxgpt.ops.row_product import row_product
for jit in (jax.jit, platform_jit):
    print(jit(row_product).lower(jnp.ones((1, 64)), jnp.ones((64, 64))).compile().as_text().count("__ynn_fusion"))
"""


def test_programs_of_inference_keep_sums_from_the_library_of_products():
    environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=reduce"}
    done = subprocess.run([sys.executable, "-c", SUMS], env=environment, capture_output=True, text=True, check=True)
    usual, ours = map(int, done.stdout.split())
    assert usual > ours == 0
