"""Pretrained weights as a GPT: read what the shards of this process need, straight to where it lives."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from rich.console import Console

from converters.adapt import FREE, adapt_weights
from converters.architectures import HEAD, Row, sizes
from converters.comparison import comparison
from converters.formats.safetensors_files import Tensor, Tensors
from converters.hub import local_path
from converters.kv_heads import KVInit
from converters.placement import sharding
from converters.sources import Source, read_source
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, named_parameters

Index = tuple[slice, ...]


def load_pretrained(
    source: str | Path,
    mesh: Mesh | None = None,
    dtype: Any | None = None,
    *,
    kv_init: KVInit = "mean",
    allow_nonfinite: bool = False,
    **config_changes: Any,
) -> GPT:
    """The GPT of a Hugging Face folder, hub id or weights file, of nanoGPT's ckpt.pt or llm.c's .bin.

    Parameters are float32, whatever the file holds.

    With a mesh of axes (data, fsdp), each parameter arrives sharded, and only the bytes of this process's shards are
    read. dtype is what the model computes in, the dtype of its config. Other fields of GPTConfig are changed as
    `converters.adapt.adapt_weights` says, pooled heads as kv_init says; what that changed is printed to stderr.

    Raises UserError where nothing is found, the files are broken, tensors are missing, unexpected or misshapen, a
    weight is NaN or infinite (unless allow_nonfinite), or the config asks for what the model cannot do.
    """
    model = fill(read_source(local_path(source)), mesh, allow_nonfinite)
    if dtype is not None:
        config_changes["dtype"] = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    return changed(model, mesh, kv_init, config_changes)


def changed(model: GPT, mesh: Mesh | None, kv_init: KVInit, config_changes: dict[str, Any]) -> GPT:
    """The model under a changed config; what that did to its weights is printed to stderr."""
    if not config_changes:
        return model
    other = adapt_weights(model, kv_init=kv_init, **config_changes)
    if config_changes.keys() - FREE | config_changes.keys() & {"window"}:
        Console(stderr=True).print(comparison(model.config, other.config))
    if mesh is None:
        return other
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding(leaf.shape, mesh)), other)


def fill(source: Source, mesh: Mesh | None, allow_nonfinite: bool) -> GPT:
    """A model with the numbers of a source."""
    check_size(source)
    model = abstract_model(source.config)
    parameters, letters = named_parameters(model), sizes(source.config)
    rows = list(source.architecture.rows(source.config, parameters))
    tensors = check_state_dict(source, rows)
    arrays: dict[str, Array] = {}
    nonfinite: list[str] = []
    for row in rows:
        pieces = row.layout.split(tensors[row.theirs].view(), letters)
        finite: list[bool] = []
        for name, piece in zip(row.ours, pieces, strict=True):
            arrays[name] = place(piece, parameters[name].shape, mesh, finite)
        if not all(finite):
            nonfinite.append(row.theirs)
    if nonfinite and not allow_nonfinite:
        raise UserError(
            f"NaN or infinity in {', '.join(nonfinite)}: these weights are broken; "
            "allow_nonfinite loads them all the same"
        )
    return jax.tree.unflatten(jax.tree.structure(model), [arrays[name] for name in parameters])


def check_size(source: Source) -> None:
    """Raise UserError where a config asks for more layers, or longer axes, than the files can hold."""
    config, _, tensors = source
    numbers = sum(math.prod(tensor.shape) for tensor in tensors.values())
    letters = {letter: size for letter, size in sizes(config).items() if letter != "t" or config.position == "learned"}
    if config.num_layers > len(tensors) or max(letters.values()) > numbers:
        raise UserError(
            f"the files hold {len(tensors)} tensors of {numbers:,} numbers, too few for "
            f"num_layers={config.num_layers}, d_model={config.d_model}: config and weights are of two models"
        )


def check_state_dict(source: Source, rows: list[Row]) -> Tensors:
    """The tensors by the names of the table. Raises UserError with all that are missing, unexpected or misshapen."""
    config, architecture, tensors = source
    found = {architecture.short_name(name): tensor for name, tensor in tensors.items()}
    if len(found) < len(tensors):
        raise UserError(f"tensors occur twice, with and without {architecture.prefix!r}: keep one of each")
    expected = {row.theirs: row.layout.shape(sizes(config)) for row in rows}
    problems = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in found]
    for name, tensor in found.items():
        if name in expected:
            problems += [f"misshapen: {name} {wrong}" for wrong in _shape_or_dtype_problem(tensor, expected[name])]
        elif not architecture.is_ignored(name) and not _repeats_the_tied_head(name, rows, found):
            problems.append(f"unexpected: {name} {list(tensor.shape)}")
    if problems:
        raise UserError(f"the weights do not fit the config as {architecture.name}:\n  " + "\n  ".join(problems))
    return found


def _shape_or_dtype_problem(tensor: Tensor, shape: tuple[int, ...]) -> list[str]:
    if tensor.shape != shape:
        return [f"is {list(tensor.shape)} but has to be {list(shape)}"]
    return [] if tensor.dtype is not None else ["is not of float64, float32, float16 or bfloat16 numbers"]


def _repeats_the_tied_head(name: str, rows: list[Row], found: Tensors) -> bool:
    """Whether this is the head, written out though it is tied, and equal to the embedding table."""
    table = next(row.theirs for row in rows if row.ours == ("embed",))
    if name != HEAD or table not in found:
        return False
    head, embed = found[HEAD], found[table]
    return head.shape == embed.shape and head.dtype == embed.dtype and np.array_equal(head.view(), embed.view())


def place(piece: np.ndarray, shape: tuple[int, ...], mesh: Mesh | None, finite: list[bool]) -> Array:
    """A parameter in float32 on its devices; of `piece`, only what they hold is read. Rows past its end are zero."""

    def read(index: Index | None) -> np.ndarray:
        index = index or (slice(None),) * len(shape)
        bounds = [range(size)[cut] for size, cut in zip(shape, index, strict=True)]
        part = np.zeros([len(bound) for bound in bounds], np.float32)
        inside = tuple(slice(max(0, min(len(b), size - b.start))) for b, size in zip(bounds, piece.shape))
        part[inside] = piece[index]
        finite.append(bool(np.isfinite(part).all()))
        return part

    if mesh is None:
        return jnp.asarray(read(None))
    return jax.make_array_from_callback(shape, sharding(shape, mesh), read)
