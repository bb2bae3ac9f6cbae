"""All-gather of sharded parameters, and reduce-scatter of their gradients: one parameter at a time."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxgpt.parallel.mesh import FSDP


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def all_gather(
    shard: Float[Array, "..."], axis: int, dtype: str, grad_dtype: str, result_dtype: str
) -> Float[Array, "..."]:
    """The whole of a parameter sharded along `axis`, sent in `dtype`. Its gradient is reduce-scattered in `grad_dtype`.

    The gradient is summed in `result_dtype` on each device before it is sent.
    """
    del grad_dtype  # for the backward pass
    return jax.lax.all_gather(shard.astype(dtype), FSDP, axis=axis, tiled=True).astype(result_dtype)


def reduce_scatter(gradient: Float[Array, "..."], axis: int, grad_dtype: str) -> Float[Array, "..."]:
    """The sum of a gradient over the fsdp axis, each device keeping its shard, in float32."""
    summed = jax.lax.psum_scatter(gradient.astype(grad_dtype), FSDP, scatter_dimension=axis, tiled=True)
    return summed.astype(jnp.float32)


def _forward(shard: Array, axis: int, dtype: str, grad_dtype: str, result_dtype: str) -> tuple[Array, None]:
    return all_gather(shard, axis, dtype, grad_dtype, result_dtype), None


def _backward(axis: int, dtype: str, grad_dtype: str, result_dtype: str, saved: None, gradient: Array) -> tuple[Array]:
    del dtype, result_dtype, saved  # custom_vjp passes them
    return (reduce_scatter(gradient, axis, grad_dtype),)


all_gather.defvjp(_forward, _backward)
