"""What is at a path: which kind of model, its config, its tensors."""

from pathlib import Path
from typing import NamedTuple

from converters.architectures import ARCHITECTURES, NANOGPT, Architecture
from converters.formats import llmc, nanogpt, safetensors_files, torch_files
from converters.formats.safetensors_files import Tensors, read_json
from converters.hf_config import config_from_hf
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError


class Source(NamedTuple):
    """A model that lies on this machine, not read yet."""

    config: GPTConfig
    architecture: Architecture
    tensors: Tensors


def read_source(path: Path) -> Source:
    """The model at a path: a Hugging Face folder, a weights file in one, nanoGPT's ckpt.pt, llm.c's .bin.

    Raises UserError where it is none of these, or broken.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".safetensors":
        return _huggingface(path.parent, safetensors_files.read_safetensors(path))
    if path.suffix in (".pt", ".pth"):
        return Source(*_with_architecture(*nanogpt.read_nanogpt(path)))
    if path.suffix == ".bin":
        if llmc.is_llmc(path):
            return Source(*_with_architecture(*llmc.read_llmc(path)))
        return _huggingface(path.parent, torch_files.read_bin(path))
    raise UserError(f"{path} is no weights file that is known: .safetensors, .bin, .pt")


def _read_folder(folder: Path) -> Source:
    if not (folder / "config.json").exists():
        for file in (nanogpt.FILE, llmc.FILE):
            if (folder / file).exists():
                return read_source(folder / file)
    has_pickle = any((folder / name).exists() for name in (torch_files.SINGLE, torch_files.INDEX))
    has_safetensors = any((folder / name).exists() for name in (safetensors_files.SINGLE, safetensors_files.INDEX))
    read_json(folder / "config.json")  # before its weights, so that its absence is what is reported
    read = torch_files.read_bin_folder if has_pickle and not has_safetensors else safetensors_files.read_folder
    return _huggingface(folder, read(folder))


def _huggingface(folder: Path, found: Tensors) -> Source:
    fields = read_json(folder / "config.json")
    return Source(config_from_hf(fields), ARCHITECTURES[fields["model_type"]], found)


def _with_architecture(config: GPTConfig, found: Tensors) -> tuple[GPTConfig, Architecture, Tensors]:
    return config, NANOGPT, found
