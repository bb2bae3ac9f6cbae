"""Pretrained weights as a GPT: read what the shards of this process need, straight to where it lives."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from rich.console import Console

from converters.adapt import FREE, adapt_weights
from converters.architectures import sizes
from converters.comparison import comparison
from converters.hub import local_path
from converters.kv_heads import KVInit
from converters.lora import is_adapter, read_adapter
from converters.sources import Source, read_source
from converters.state_dict import check_size, check_state_dict
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, named_parameters
from jaxgpt.parallel.sharding import parameter_sharding

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
    """The GPT of a Hugging Face folder, hub id or weights file, of nanoGPT's ckpt.pt or llm.c's .bin, or of a LoRA
    adapter of PEFT, merged into its base model.

    Parameters are float32, whatever the file holds.

    With a mesh of axes (data, fsdp), each parameter arrives sharded, and only the bytes of this process's shards are
    read. dtype is what the model computes in, the dtype of its config. Other fields of GPTConfig are changed as
    `converters.adapt.adapt_weights` says, pooled heads as kv_init says; what that changed is printed to stderr.

    Raises UserError where nothing is found, the files are broken, tensors are missing, unexpected or misshapen, a
    weight is NaN or infinite (unless allow_nonfinite), or the config asks for what the model cannot do.

    Example:
        >>> import tempfile
        >>> from flax import nnx
        >>> from converters import load_pretrained, save_pretrained
        >>> from jaxgpt import GPT, GPTConfig
        >>> folder = tempfile.mkdtemp() + "/gpt2"
        >>> save_pretrained(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0)), folder)
        'gpt2'
        >>> model = load_pretrained(folder)
        >>> model.config.num_layers, model.embed.shape  # the vocabulary of 97 is padded with zeros to 128
        (2, (128, 32))
    """
    model = read_model(open_source(local_path(source)), mesh, allow_nonfinite)
    if dtype is not None:
        config_changes["dtype"] = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    return adapt(model, mesh, kv_init=kv_init, changes=config_changes)


def open_source(path: Path) -> Source:
    """The model at a path, not read yet; an adapter is merged into its base."""
    if path.is_dir() and is_adapter(path):
        return read_adapter(path, lambda base: read_source(local_path(base)))
    return read_source(path)


def adapt(model: GPT, mesh: Mesh | None, *, kv_init: KVInit = "mean", changes: dict[str, Any]) -> GPT:
    """The model under a changed config, on the mesh; what that did to its weights is printed to stderr."""
    if not changes:
        return model
    other = adapt_weights(model, kv_init=kv_init, **changes)
    if changes.keys() - FREE | changes.keys() & {"window"}:
        Console(stderr=True).print(comparison(model.config, other.config))
    if mesh is None:
        return other
    leaves = [
        jax.device_put(leaf, parameter_sharding(path, leaf.shape, mesh))
        for path, leaf in named_parameters(other).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(other), leaves)


def read_model(source: Source, mesh: Mesh | None, allow_nonfinite: bool) -> GPT:
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
            shape = parameters[name].shape
            where = None if mesh is None else parameter_sharding(name, shape, mesh)
            arrays[name] = place(piece, shape, where, finite, scale(name, source))
        if not all(finite):
            nonfinite.append(row.theirs)
    if nonfinite and not allow_nonfinite:
        raise UserError(
            f"NaN or infinity in {', '.join(nonfinite)}: these weights are broken; "
            "allow_nonfinite loads them all the same"
        )
    return jax.tree.unflatten(jax.tree.structure(model), [arrays[name] for name in parameters])


def scale(name: str, source: Source) -> float:
    """What a parameter is multiplied with: queries, where the source's attention scores are not divided by sqrt(H)."""
    unscaled = not source.scaled_attention and ".attn.query." in name
    return source.config.head_dim**0.5 if unscaled else 1.0


def place(
    piece: np.ndarray, shape: tuple[int, ...], where: NamedSharding | None, finite: list[bool], scale: float = 1.0
) -> Array:
    """A parameter in float32 on its devices; of `piece`, only what they hold is read. Rows past its end are zero."""

    def read(index: Index | None) -> np.ndarray:
        index = index or (slice(None),) * len(shape)
        bounds = [range(size)[cut] for size, cut in zip(shape, index, strict=True)]
        part = np.zeros([len(bound) for bound in bounds], np.float32)
        inside = tuple(slice(max(0, min(len(b), size - b.start))) for b, size in zip(bounds, piece.shape))
        part[inside] = piece[index]
        if scale != 1:
            part *= np.float32(scale)
        finite.append(bool(np.isfinite(part).all()))
        return part

    if where is None:
        return jnp.asarray(read(None))
    return jax.make_array_from_callback(shape, where, read)
