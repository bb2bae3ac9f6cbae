"""A linear map of rows, and rows added to a product."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from jaxgpt.ops.platform import emulates_bfloat16, target_platform
from jaxgpt.ops.row_product import row_product, row_product_transposed


def linear(
    x: Float[Array, "M I"],
    kernel: Shaped[Array, "I O"],
    bias: Float[Array, "1 O"] | None = None,
    scale: Float[Array, "1 O"] | None = None,
) -> Float[Array, "M O"]:
    """Returns x W + b, or (x W) scale + b, in the dtype of x."""
    y = _any_product(x, kernel)
    y = y if scale is None else (y * scale).astype(x.dtype)
    return y if bias is None else (y + bias.astype(bias_dtype(x.dtype))).astype(x.dtype)


def bias_dtype(dtype: DTypeLike) -> DTypeLike:
    """The dtype in which a bias is added to products of `dtype`: float32 or wider on a CPU, elsewhere `dtype`.

    On a CPU its gradient is then summed in float32: XLA rounds a sum of bfloat16 rows at every addition and takes 30
    times as long (1024 x 3072). On a GPU float32 would write 11 GB more in a training step of 124M.
    """
    return jnp.promote_types(dtype, jnp.float32) if target_platform() == "cpu" else dtype


def _any_product(x: Float[Array, "M I"], kernel: Shaped[Array, "I O"]) -> Float[Array, "M O"]:
    """X W in the dtype of x. A kernel of fewer bits is widened; for several rows a CPU's bfloat16 units narrow x."""
    if target_platform() != "cpu":
        return x @ kernel.astype(x.dtype)
    if x.shape[0] == 1:
        return row_product(x, kernel).astype(x.dtype)
    if x.dtype == jnp.bfloat16:
        return product_on_cpu(x, kernel.astype(x.dtype))
    if kernel.dtype == x.dtype or emulates_bfloat16():
        return x @ kernel.astype(x.dtype)
    return jnp.matmul(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), preferred_element_type=x.dtype)


def table_product(x: Float[Array, "B T D"], table: Float[Array, "V D"]) -> Float[Array, "B T V"]:
    """X tableT in float32."""
    if target_platform() == "cpu" and x.shape[:2] == (1, 1) and x.dtype == jnp.float32:
        return row_product_transposed(x[0], table)[None]
    return jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)


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
    return _product(d_y, transposed_copy(kernel)), _product(transposed_copy(x), d_y)


product_on_cpu.defvjp(_forward, _backward)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def transposed_copy(x: Shaped[Array, "M N"]) -> Shaped[Array, "N M"]:
    """Returns xT as an array of its own, which a CPU's bfloat16 units read; a transposed view they do not."""
    return with_layout_constraint(x.T, Layout((0, 1)))


def pad_rows(x: Shaped[Array, "M ..."], rows: int) -> Shaped[Array, "R ..."]:
    """Returns x with rows of zeros added, up to `rows`."""
    missing = max(rows - x.shape[0], 0)
    return jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:]))) if missing else x
