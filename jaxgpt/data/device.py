"""Batches on their devices. The rest of jaxgpt.data does without jax."""

from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from jax.sharding import Sharding
from jaxtyping import Int


def device_put_batch(
    read: Callable[[slice], np.ndarray], shape: tuple[int, int], sharding: Sharding
) -> Int[Array, "B S"]:
    """A batch on its devices; `read` is asked for the rows of this process's devices and no others."""
    return jax.make_array_from_callback(shape, sharding, lambda index: read(index[0] if index else slice(None)))
