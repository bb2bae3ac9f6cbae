"""llm.c's model files, read and written: 256 whole numbers, then the tensors, those of all layers together.

Version 3 holds float32, version 5 bfloat16; both pad the vocabulary to a multiple of 128, as we do.
"""

import dataclasses
from itertools import accumulate
from pathlib import Path

import ml_dtypes
import numpy as np

from converters.architectures import NANOGPT, sizes
from converters.files import regular_file
from converters.formats.tensors import Tensor, Tensors
from converters.hf_config import checked_config
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters

FILE = "model.bin"
MAGIC = 20240326
HEADER = 256
DTYPES = {3: np.dtype(np.float32), 5: np.dtype(ml_dtypes.bfloat16)}
FIELDS = ("context_length", "vocab_size", "num_layers", "num_heads", "d_model")
"""What the third and following numbers of the header are; after them comes the padded vocabulary."""

ORDER = (
    "wte.weight",
    "wpe.weight",
    "h.*.ln_1.weight",
    "h.*.ln_1.bias",
    "h.*.attn.c_attn.weight",
    "h.*.attn.c_attn.bias",
    "h.*.attn.c_proj.weight",
    "h.*.attn.c_proj.bias",
    "h.*.ln_2.weight",
    "h.*.ln_2.bias",
    "h.*.mlp.c_fc.weight",
    "h.*.mlp.c_fc.bias",
    "h.*.mlp.c_proj.weight",
    "h.*.mlp.c_proj.bias",
    "ln_f.weight",
    "ln_f.bias",
)


def is_llmc(path: Path) -> bool:
    """Whether the file begins as llm.c's model files do."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC.to_bytes(4, "little")


def read_llmc(path: Path) -> tuple[GPTConfig, Tensors]:
    """The config and tensors. Raises UserError on another version, and where header and size do not agree."""
    header = np.fromfile(regular_file(path), "<i4", HEADER)
    if len(header) < HEADER or header[0] != MAGIC or int(header[1]) not in DTYPES:
        version = int(header[1]) if len(header) > 1 else "none"
        raise UserError(f"{path} is no model file of llm.c with version 3 or 5 (its version is {version})")
    config = checked_config({name: int(value) for name, value in zip(FIELDS, header[2:], strict=False)})
    if header[7] != config.padded_vocab_size:
        raise UserError(f"{path} pads {config.vocab_size} tokens to {header[7]}, not to {config.padded_vocab_size}")
    return config, _tensors(path, config, DTYPES[int(header[1])])


def write_llmc(model: GPT, path: Path, dtype: np.dtype) -> None:
    """A file that llm.c trains on from. Raises UserError on a dtype other than float32 and bfloat16."""
    versions = {stored: version for version, stored in DTYPES.items()}
    if dtype not in versions:
        raise UserError(f"dtype={dtype} is not one that llm.c reads; use float32 or bfloat16")
    config, parameters = model.config, named_parameters(model)
    rows = {row.theirs: row for row in NANOGPT.rows(config, parameters)}
    header = np.zeros(HEADER, "<i4")
    values = (MAGIC, versions[dtype], *(getattr(config, name) for name in FIELDS), config.padded_vocab_size)
    header[: len(values)] = values
    with path.open("wb") as file:
        header.tofile(file)
        for name in names(config):
            tensor = rows[name].tensor(parameters, sizes(config)).astype(dtype)
            missing = shape_of(name, config)[0] - len(tensor)  # the table's padding rows
            file.write(np.pad(tensor, ((0, missing),) + ((0, 0),) * (tensor.ndim - 1)).tobytes())


def names(config: GPTConfig) -> list[str]:
    """The tensors in the order of the file."""
    return [name.replace("*", str(layer)) for name in ORDER for layer in range(config.num_layers if "*" in name else 1)]


def shape_of(name: str, config: GPTConfig) -> tuple[int, ...]:
    """The shape of a tensor in the file, padding included."""
    if name == "wte.weight":
        return config.padded_vocab_size, config.d_model
    layouts = {row.theirs: row.layout for row in NANOGPT.all_rows(config)}
    return layouts[name].shape(sizes(config))


def _shapes(config: GPTConfig) -> list[tuple[int, ...]]:
    """The shapes of all tensors in the order of the file."""
    first = dataclasses.replace(config, num_layers=1)
    of_kind = {kind: shape_of(kind.replace("*", "0"), first) for kind in ORDER}
    return [of_kind[kind] for kind in ORDER for _ in range(config.num_layers if "*" in kind else 1)]


def _tensors(path: Path, config: GPTConfig, dtype: np.dtype) -> Tensors:
    if config.num_layers * config.d_model > path.stat().st_size:
        raise UserError(f"{path} has {path.stat().st_size} bytes, too few for {config.num_layers} layers: get it again")
    listed, shapes = names(config), _shapes(config)
    ends = list(accumulate((int(np.prod(shape)) * dtype.itemsize for shape in shapes), initial=4 * HEADER))
    if path.stat().st_size != ends[-1]:
        raise UserError(f"{path} has {path.stat().st_size} bytes where its header asks for {ends[-1]}: get it again")

    def tensor(shape: tuple[int, ...], offset: int, rows: int) -> Tensor:
        def view() -> np.ndarray:
            return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)[:rows]

        return Tensor((rows, *shape[1:]), dtype, view)

    return {
        name: tensor(shape, offset, config.vocab_size if name == "wte.weight" else shape[0])
        for name, shape, offset in zip(listed, shapes, ends, strict=False)
    }
