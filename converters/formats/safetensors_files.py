"""Named tensors in files: their shapes at once, their numbers when used.

safetensors files are memory-mapped, one tensor at a time, so that a part of a tensor costs the bytes of that part.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxgpt.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Tensor(NamedTuple):
    """A tensor that lies in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype | None
    """None: numbers that are no weights, such as a mask of booleans."""
    view: Callable[[], np.ndarray]
    """Opens the numbers as an array that reads what is used of it."""


Tensors = dict[str, Tensor]


def read_folder(folder: Path) -> Tensors:
    """The tensors of a folder with one safetensors file, or several and an index.

    Raises UserError where there is none, or what there is is broken.
    """
    if (folder / INDEX).exists():
        return _read_shards(folder)
    if not (folder / SINGLE).exists():
        raise UserError(f"{folder} has neither {SINGLE} nor {INDEX}: no weights to load")
    return read_safetensors(folder / SINGLE)


def read_safetensors(path: Path) -> Tensors:
    """The tensors of one safetensors file. Raises UserError where the header and the file do not agree."""
    try:
        with safe_open(path, framework="numpy"):  # checks that the header describes the file to the last byte
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): get it again") from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: _tensor(path, 8 + size, entry) for name, entry in header.items()}


def read_json(path: Path) -> dict:
    """A JSON object from a file. Raises UserError where it holds anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): get it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not a JSON object: get it again")
    return value


def shard_names(index: Path) -> dict[str, str]:
    """Each tensor's file name, from an index. Raises UserError on a name that leads out of the index's folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map of tensor names to file names: get it again")
    for name in names.values():
        if Path(name).name != name or "\\" in name or name in ("", ".."):
            raise UserError(f"{index} points to {name!r}, outside its folder: refused; do not trust this model")
    return names


def existing(path: Path) -> Path:
    """The path of a shard. Raises UserError where there is no such file."""
    if not path.exists():
        raise UserError(f"{path} is missing, though the index names it: get it again")
    return path


def _read_shards(folder: Path) -> Tensors:
    names = shard_names(folder / INDEX)
    shards = {}
    for name in sorted(set(names.values())):
        shards[name] = read_safetensors(existing(folder / name))
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
