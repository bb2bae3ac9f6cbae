"""Rotary positions: rotate query and key by an angle that grows with their position (Su et al. 2021, eq. 34)."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int


def rotate(x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float) -> Float[Array, "B T N H"]:
    """Rotate each pair (x[i], x[i + H/2]) by position * theta^(-2i/H) radians: scores then depend on distance alone.

    The pairing is rotate-half, as in Hugging Face's architectures.
    """
    cos, sin = (part[:, :, None] for part in rotations(positions, x.shape[-1], theta))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def rotations(
    positions: Int[Array, "*B"], head_dim: int, theta: float
) -> tuple[Float[Array, "*B P"], Float[Array, "*B P"]]:
    """Cosine and sine of the angle of each of the P = head_dim / 2 pairs of a head."""
    half = head_dim // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.expand_dims(positions.astype(jnp.float32), -1) * frequencies.reshape(*(1,) * positions.ndim, half)
    return jnp.cos(angles), jnp.sin(angles)
