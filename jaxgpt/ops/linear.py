"""A linear map of rows, and rows added to a product."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Shaped


def linear(
    x: Float[Array, "M I"], kernel: Float[Array, "I O"], bias: Float[Array, "1 O"] | None = None
) -> Float[Array, "M O"]:
    """Returns x W + b."""
    y = x @ kernel
    return y if bias is None else y + bias


def pad_rows(x: Shaped[Array, "M ..."], rows: int) -> Shaped[Array, "R ..."]:
    """Returns x with rows of zeros added, up to `rows`."""
    missing = max(rows - x.shape[0], 0)
    return jnp.pad(x, ((0, missing), *((0, 0) for _ in x.shape[1:]))) if missing else x
