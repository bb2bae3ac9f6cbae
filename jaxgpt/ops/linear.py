"""A linear map of rows, and rows added to a product."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Float, Shaped

from jaxgpt.ops.platform import target_platform


def linear(
    x: Float[Array, "M I"], kernel: Float[Array, "I O"], bias: Float[Array, "1 O"] | None = None
) -> Float[Array, "M O"]:
    """Returns x W + b."""
    y = product_on_cpu(x, kernel) if x.dtype == jnp.bfloat16 and target_platform() == "cpu" else x @ kernel
    return y if bias is None else y + bias


@jax.custom_vjp
def product_on_cpu(x: Float[Array, "M I"], kernel: Float[Array, "I O"]) -> Float[Array, "M O"]:
    """X W of bfloat16 numbers, such that forward and backward run on a CPU's bfloat16 units.

    XLA widens the operands of a product to float32 where its result is bfloat16, or an operand is read as a transposed
    view; then it takes twice as long (two cores with AVX512-BF16: 200 GFLOP/s for 400).
    """
    return _product(x, kernel)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product_on_cpu(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], d_y: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _product(d_y, _transposed_copy(kernel)), _product(_transposed_copy(x), d_y)


product_on_cpu.defvjp(_forward, _backward)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _transposed_copy(x: Array) -> Array:
    return with_layout_constraint(x.T, Layout((0, 1)))


def pad_rows(x: Shaped[Array, "M ..."], rows: int) -> Shaped[Array, "R ..."]:
    """Returns x with rows of zeros added, up to `rows`."""
    missing = max(rows - x.shape[0], 0)
    return jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:]))) if missing else x
