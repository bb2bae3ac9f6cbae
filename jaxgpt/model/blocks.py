"""The stack of blocks, applied in order: unrolled or scanned, with activations saved or recomputed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.ops.attention import DocStarts
from jaxgpt.ops.dropout import DropoutKey, fold_keys

Remat = Literal["none", "parameters", "block", "full"]
"""What the backward pass recomputes. none: nothing. parameters: it all-gathers FSDP parameters again. block: all but
the input of each block. full: all but the input of about every sqrt(L)-th of L blocks."""

DATA_MOVEMENT_OPS = {
    "all_gather",
    "convert_element_type",
    "reshape",
    "transpose",
    "squeeze",
    "broadcast_in_dim",
    "pvary",
}
"""Under `parameters` the results of these are recomputed. All of them, not all_gather alone, or a gathered kernel would
be saved in the shape in which it is used."""


class Blocks(nnx.List):
    """The blocks of a model; calling it applies them in order. Whether they are scanned changes no number."""

    def __init__(self, blocks: Iterable[Any], *, scan: bool = False) -> None:
        super().__init__(blocks)
        self.scan = scan

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        dropout_key: DropoutKey = None,
        doc_starts: DocStarts = None,
    ) -> Float[Array, "B T D"]:
        return apply_blocks(self, x, positions, dropout_key, doc_starts, scan=self.scan)


def apply_blocks(
    blocks: Sequence[Any],
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    dropout_key: DropoutKey,
    doc_starts: DocStarts = None,
    *,
    scan: bool,
    unshard: Callable[[Any], Any] = lambda block: block,
    remat: Remat = "none",
) -> Float[Array, "B T D"]:
    """Apply the blocks in order; `unshard` is called on each just before its use. Strategies change no number.

    Under jit, identical blocks share one traced function. With `scan`, one period of the layers' windows is compiled
    and looped over.
    """
    places = positions, doc_starts

    def apply(block: Any, x: Array, places: tuple[Array, DocStarts], key: DropoutKey, layer: int | Array) -> Array:
        positions, doc_starts = places
        y, _ = unshard(block)(x, positions, dropout_key=fold_keys(key, layer), doc_starts=doc_starts)
        return y

    apply_once, apply = apply, checkpoint_block(apply, remat)
    if isinstance(x, jax.core.Tracer):  # outside of jit each operation is compiled alone, and shared anyway
        apply_once, apply = jax.jit(apply_once), jax.jit(apply)

    def apply_group(x: Array, group: Sequence[Any], first: int | Array) -> Array:
        for offset, block in enumerate(group):
            # The backward pass begins with the last block: what was gathered for it is still there.
            is_kept = remat == "parameters" and not scan and first + offset == len(blocks) - 1
            x = (apply_once if is_kept else apply)(block, x, places, dropout_key, first + offset)
        return x

    size = period = smallest_period([(block.attn.window, block.attn.scale) for block in blocks])
    if remat == "full":  # about sqrt(L) inputs are saved, and as many recomputed at a time
        size *= max(1, round(len(blocks) ** 0.5 / period))
        apply_group = jax.checkpoint(apply_group)
    scanned = len(blocks) // size if scan else 0
    if scanned:
        stacked = [
            jax.tree.map(lambda *layers: jnp.stack(layers), *blocks[offset : scanned * size : size])
            for offset in range(size)
        ]
        x, _ = jax.lax.scan(lambda x, group: (apply_group(x, *group), None), x, (stacked, size * jnp.arange(scanned)))
    for first in range(scanned * size, len(blocks), size):
        x = apply_group(x, blocks[first : first + size], first)
    return x


def smallest_period(items: Sequence[object]) -> int:
    """The least p with items[i] == items[i + p] throughout."""
    return next(p for p in range(1, len(items) + 1) if all(a == b for a, b in zip(items, items[p:], strict=False)))


def checkpoint_block(apply: Callable, remat: Remat) -> Callable:
    """The application of one block, with the rematerialization that `remat` names."""
    if remat == "none":
        return apply
    return jax.checkpoint(apply, policy=_save_computed if remat == "parameters" else None)


def _save_computed(primitive: Any, *_: Any, **parameters: Any) -> bool:
    """Save activations; all-gather the FSDP parameters again in the backward pass.

    A function with a gradient of its own is judged by the operations inside it.
    """
    inside = parameters.get("call_jaxpr")
    operations = {primitive.name} if inside is None else {equation.primitive.name for equation in inside.eqns}
    return not operations <= DATA_MOVEMENT_OPS
