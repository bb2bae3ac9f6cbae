"""The state of a batch whose rows come and go: some rows of it, with other room, and one replaced."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from jaxgpt.inference.programs import State
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.cache_update import bfloat16_as_uint16


class Shapes:
    """Shapes as an argument that a program is compiled for."""

    def __init__(self, shapes: State) -> None:
        self.shapes = shapes
        leaves, tree = jax.tree.flatten(shapes)
        self._key = (tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shapes) and self._key == other._key


def shapes_of(model: GPT, rows: int, capacity: int) -> State:
    """The state of so many rows, as shapes."""
    zeros = jnp.zeros(rows, jnp.int32)

    def make(model: GPT) -> State:
        _, cache = model.prefill(jnp.zeros((rows, 1), jnp.int32), zeros + 1, capacity)
        return State(zeros, zeros, jnp.zeros(rows, bool), bfloat16_as_uint16(cache), None)

    return jax.eval_shape(make, model)


@partial(jax.jit, static_argnames="target")
def take(state: State, index: Int[Array | np.ndarray, " R"], target: Shapes) -> State:
    """Some rows of a state, their caches as long as the target's. A longer cache only has more empty slots."""

    def fit(leaf: Array, shape: jax.ShapeDtypeStruct) -> Array:
        leaf = leaf[index]
        if leaf.ndim == 1:
            return leaf
        leaf = leaf[:, : shape.shape[1]]
        return jnp.pad(leaf, ((0, 0), (0, shape.shape[1] - leaf.shape[1]), (0, 0), (0, 0)))

    return jax.tree.map(fit, state, target.shapes)


@partial(jax.jit, donate_argnames="state")
def put(state: State, row: Int[Array | np.ndarray, ""], other: State, at: Int[Array | np.ndarray, ""]) -> State:
    """A state with one row replaced, by row `at` of another state."""

    def place(all_: Array, others: Array) -> Array:
        new = jax.lax.dynamic_slice_in_dim(others, at, 1).astype(all_.dtype)
        if all_.ndim > 1:
            new = new[:, : all_.shape[1]]
        return jax.lax.dynamic_update_slice(all_, new, (row, *(0 for _ in all_.shape[1:])))

    return jax.tree.map(place, state, other)
