"""Rotary positions: turn query and key by an angle that grows with their position (Su et al. 2021, eq. 34)."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def rotate(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float) -> Float[Array, "B T N H"]:
    """Turn each pair (x[i], x[i + H/2]) by position * theta^(-2i/H) radians: scores then depend on distance alone.

    The pairing is rotate-half, as in Hugging Face's architectures.
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
