"""PyTorch's pickles: Hugging Face's older .bin files and nanoGPT's ckpt.pt.

torch reads them with weights_only, which builds tensors and plain values and runs nothing else, and maps them into
memory where the format allows.
"""

import pickle
import re
import warnings
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from converters.files import existing_shard, regular_file, shard_names, shown
from converters.formats.tensors import DTYPES, Tensor, Tensors
from jaxgpt.errors import UserError

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
SLACK = 2**20
"""Bytes by which the tensors of a small checkpoint may exceed twice its file."""


def read_bin_folder(folder: Path) -> Tensors:
    """The tensors of a folder with pytorch_model.bin, or several files and an index; the single file where both are."""
    if (folder / SINGLE).exists():
        return read_bin(folder / SINGLE)
    names = shard_names(folder / INDEX)
    tensors: Tensors = {}
    for name in sorted(set(names.values())):
        tensors |= read_bin(existing_shard(folder / name))
    return tensors


def read_bin(path: Path) -> Tensors:
    """The tensors of one pickled state dict."""
    return tensors_of(unpickled(path), path)


def unpickled(path: Path) -> Any:
    """What a pickle holds. Raises UserError without torch, and where the file is broken or wants to run code."""
    _check_archive(regular_file(path))
    if find_spec("torch") is None:
        raise UserError(f"{path} is a PyTorch pickle and needs torch: pip install 'jaxgpt[torch]', or get safetensors")
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # on the age of the pickle
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of any class: torch raises what the broken bytes happen to provoke
        asked = re.search(r"GLOBAL (\S{1,200})", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if asked:
            raise UserError(f"{path} is refused: it asks to run {asked[1]}; nothing in it was run") from None
        raise UserError(f"{path} is not a whole PyTorch file ({type(error).__name__}): get it again") from None


def tensors_of(state: Any, path: Path) -> Tensors:
    """A state dict as tensors. Raises UserError where it is something else."""
    import torch

    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        held = f"a dict of {shown(list(state))}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise UserError(f"{path} holds {held}, not a state dict of tensors: save model.state_dict() alone")
    claimed = sum(value.numel() * value.element_size() for value in state.values())
    if claimed > 2 * path.stat().st_size + SLACK:  # twice: a tied table has two names
        raise UserError(f"{path} has {path.stat().st_size:,} bytes and claims tensors of {claimed:,}: do not trust it")
    return {str(name): _tensor(value, f"{path}: {shown(name)}") for name, value in state.items()}


def _check_archive(path: Path) -> None:
    """Raise UserError where a zip would unpack to more than it is; torch itself never compresses."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise UserError(f"{path} is not a whole PyTorch file ({type(error).__name__}): get it again") from None
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise UserError(f"{path} is not a whole PyTorch file (it is compressed, as torch never writes): get it again")


def _tensor(value: Any, name: str) -> Tensor:
    if str(value.layout) != "torch.strided" or value.is_quantized or value.device.type != "cpu":
        raise UserError(f"{name} is sparse, quantized or without numbers; save it as a plain tensor")
    dtype = DTYPES.get({"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(_name(value), ""))

    def view() -> np.ndarray:
        plain = value.detach()
        if dtype == ml_dtypes.bfloat16:  # which numpy does not know
            import torch

            return plain.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return plain.numpy()

    return Tensor(tuple(value.shape), dtype, view)


def _name(value: Any) -> str:
    return str(value.dtype).removeprefix("torch.")
