"""flax_model.msgpack: GPT-2 as transformers kept it for Flax, until its version 5 removed that class."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import msgpack
import numpy as np

from converters.files import regular_file, shown
from converters.formats.tensors import Tensor, Tensors
from jaxgpt.errors import UserError

FILE = "flax_model.msgpack"
ARRAY = 1
"""The extension type under which flax stores an array: a packed (shape, dtype, bytes)."""
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
"""Flax's name of a leaf, torch's."""


def read_flax(path: Path) -> Tensors:
    """The tensors under torch's names. Raises UserError where the file is broken or holds something else.

    Kernels of its Conv1D are (out, in), of the head (in, out): both are turned to what torch has.
    """
    raw = regular_file(path).read_bytes()
    try:
        tree = msgpack.unpackb(raw, ext_hook=_array, strict_map_key=True)
        return dict(_tensors(tree["params"] if isinstance(tree, dict) and tree.keys() == {"params"} else tree, ()))
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        reason = shown(str(error))[1:-1]
        raise UserError(f"{path} is not a whole file of Flax weights ({reason}): get it again") from None


def _array(code: int, data: bytes) -> np.ndarray:
    if code != ARRAY:
        raise ValueError(f"extension {code} is not an array")
    shape, dtype, buffer = msgpack.unpackb(data)
    if dtype not in DTYPES or math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize != len(buffer):
        raise ValueError(f"an array of {shown(dtype)} that its bytes do not fill")
    return np.frombuffer(buffer, DTYPES[dtype]).reshape(shape)


def _tensors(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(tree, dict):
        if not isinstance(tree, np.ndarray) or not path:
            raise ValueError(f"{shown('.'.join(path))} is a {type(tree).__name__} where an array is expected")
        name = ".".join((*path[:-1], LEAVES.get(path[-1], path[-1])))
        turned = tree.T if path[-1] == "kernel" else tree
        yield name, Tensor(turned.shape, tree.dtype, lambda: turned)
        return
    for key, inner in tree.items():
        yield from _tensors(inner, (*path, str(key)))
