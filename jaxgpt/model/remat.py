"""What the backward pass computes again instead of keeping."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax

Remat = Literal["none", "parameters", "block", "full"]
"""none: keep all. parameters: keep all but the parameters that `ready` made whole. block: keep what enters each block.
full: keep what enters about every sqrt(L)-th of L blocks."""

Part = TypeVar("Part")
Ready = Callable[[Any], Any]
"""Makes the parameters of a part whole: a module to the same module."""

DATA_MOVEMENT_OPS = {
    "all_gather",
    "convert_element_type",
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "pvary",
}
"""Operations that only move numbers: under `parameters` their results are made again. All of them, not the gather
alone, or a gathered kernel would be kept in the shape it was used in."""


def identity(part: Part) -> Part:
    """Of parameters that are whole already."""
    return part


def checkpoint_block(apply: Callable, remat: Remat) -> Callable:
    """The application of one block, keeping what `remat` says."""
    if remat == "none":
        return apply
    return jax.checkpoint(apply, policy=_keep_what_is_computed if remat == "parameters" else None)


def _keep_what_is_computed(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Whether to keep a result. A function with a gradient of its own is what is done inside it."""
    inside = parameters.get("call_jaxpr")
    done = {primitive.name} if inside is None else {equation.primitive.name for equation in inside.eqns}
    return not done <= DATA_MOVEMENT_OPS
