"""safetensors files, memory-mapped one tensor at a time: a part of a tensor costs the bytes of that part."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from converters.files import existing_shard, regular_file, shard_names
from converters.formats.tensors import DTYPES, Tensor, Tensors
from jaxgpt.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
HEADER_BYTES = 25_000_000
"""A header has about 100 bytes per tensor; one beyond this costs seconds to read."""


def read_folder(folder: Path) -> Tensors:
    """The tensors of a folder with one safetensors file, or several and an index.

    Where both are there the single file is the model, as for transformers. Raises UserError where what there is is
    broken.
    """
    return read_safetensors(folder / SINGLE) if (folder / SINGLE).exists() else _read_shards(folder)


def read_safetensors(path: Path) -> Tensors:
    """The tensors of one safetensors file. Raises UserError where the header and the file do not agree."""
    with regular_file(path).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if HEADER_BYTES < size < path.stat().st_size:
            raise UserError(f"{path} has a header of {size:,} bytes, and no GPT's has {HEADER_BYTES:,}: get it again")
    try:
        with safe_open(path, framework="numpy"):  # checks that the header describes the file to the last byte
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): get it again") from None
    with path.open("rb") as file:
        header = json.loads(file.read(8 + size)[8:])
    header.pop("__metadata__", None)
    return {name: _tensor(path, 8 + size, entry) for name, entry in header.items()}


def _read_shards(folder: Path) -> Tensors:
    names = shard_names(folder / INDEX)
    shards = {}
    for name in sorted(set(names.values())):
        shards[name] = read_safetensors(existing_shard(folder / name))
    if lost := sorted(tensor for tensor, name in names.items() if tensor not in shards[name]):
        raise UserError(f"{folder / INDEX} names tensors that its files do not hold: {', '.join(lost)}")
    return {tensor: shards[name][tensor] for tensor, name in names.items()}


def _tensor(path: Path, start: int, entry: dict) -> Tensor:
    dtype, shape = DTYPES.get(entry["dtype"]), tuple(entry["shape"])
    offset = start + entry["data_offsets"][0]

    def view() -> np.ndarray:  # a mapping of its own: its pages leave memory with it
        if 0 in shape:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype=dtype or np.dtype(np.uint8), mode="r", offset=offset, shape=shape)

    return Tensor(shape, dtype, view)
