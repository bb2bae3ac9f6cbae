"""Named tensors in files: their shapes at once, their numbers when used."""

import re
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jaxgpt.errors import UserError

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

WRAPPERS = r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module|base_model\.model)\."
"""What torch.compile, FSDP, activation checkpointing, DistributedDataParallel and PEFT put into names."""


def unwrap(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """The tensors without the parts of names that wrappers add, and those parts.

    Raises UserError where two names become one.
    """
    removed: set[str] = set()
    found: Tensors = {}
    for name, tensor in tensors.items():
        removed |= set(re.findall(rf"(?:^|(?<=\.)){WRAPPERS}", name))
        plain = re.sub(rf"(?:^|(?<=\.)){WRAPPERS}", "", name)
        if plain in found:
            raise UserError(f"{plain} occurs twice, with and without {' and '.join(sorted(removed))}: keep one of them")
        found[plain] = tensor
    return found, sorted(removed)
