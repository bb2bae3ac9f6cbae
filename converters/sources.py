"""What is at a path: which kind of model, its config, its tensors."""

from pathlib import Path
from typing import NamedTuple

from converters.architectures import ARCHITECTURES, NANOGPT, OWN, Architecture
from converters.files import read_json, regular_file
from converters.formats import (
    flax_msgpack,
    gguf_reader,
    gguf_tables,
    llmc,
    nanogpt,
    own,
    safetensors_files,
    tensorflow_bundle,
    torch_files,
)
from converters.formats.tensors import Tensors
from converters.hf_config import config_from_hf, scales_attention
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

CONFIG = "config.json"


class Source(NamedTuple):
    """A model that lies on this machine, not read yet."""

    config: GPTConfig
    architecture: Architecture
    tensors: Tensors
    scaled_attention: bool = True
    """Whether attention scores are divided by the root of the head size."""


def read_source(path: Path) -> Source:
    """The model at a path: a Hugging Face folder, a weights file in one, nanoGPT's ckpt.pt, llm.c's .bin, llama.cpp's
    .gguf, OpenAI's TensorFlow checkpoint, our own.

    Raises UserError where it is none of these, or broken.
    """
    if path.is_dir():
        return _read_folder(path)
    path = _named(regular_file(path))
    if path.suffix == ".safetensors":
        return _beside_config(path.parent, safetensors_files.read_safetensors(path))
    if path.suffix == ".msgpack":
        return _beside_config(path.parent, flax_msgpack.read_flax(path))
    if path.suffix == ".gguf":
        return Source(*gguf_reader.read_gguf(path))
    if path.suffix in (".pt", ".pth"):
        return _nanogpt(*nanogpt.read_nanogpt(path))
    if path.suffix == ".bin":
        if llmc.is_llmc(path):
            return _nanogpt(*llmc.read_llmc(path))
        return _beside_config(path.parent, torch_files.read_bin(path))
    raise UserError(f"{path} is no weights file that is known: .safetensors, .bin, .pt, .msgpack, .gguf")


FOLDERS = (
    (safetensors_files.SINGLE, safetensors_files.read_folder),
    (safetensors_files.INDEX, safetensors_files.read_folder),
    (torch_files.SINGLE, torch_files.read_bin_folder),
    (torch_files.INDEX, torch_files.read_bin_folder),
    (flax_msgpack.FILE, lambda folder: flax_msgpack.read_flax(folder / flax_msgpack.FILE)),
)
"""The weights of a folder with a config.json: the first of these files that is there, in transformers' order."""


def _read_folder(folder: Path) -> Source:
    if not (folder / CONFIG).exists():
        for file in (nanogpt.FILE, llmc.FILE, gguf_tables.FILE):
            if (folder / file).exists():
                return read_source(folder / file)
        if (folder / tensorflow_bundle.HPARAMS).exists():
            config, found = tensorflow_bundle.read_tensorflow(folder)
            return Source(config, ARCHITECTURES["gpt2"], found)
    fields = read_json(folder / CONFIG)  # before its weights, so that its absence is what is reported
    for file, read in FOLDERS:
        if (folder / file).exists():
            return _with_config(fields, folder, read(folder))
    if own.MARK not in fields:
        config_from_hf(fields)  # a model that is no GPT-2 is told so first
    raise UserError(f"{folder} has neither {' nor '.join(file for file, _ in FOLDERS)}: no weights to load")


def _beside_config(folder: Path, found: Tensors) -> Source:
    return _with_config(read_json(folder / CONFIG), folder, found)


def _with_config(fields: dict, folder: Path, found: Tensors) -> Source:
    if own.MARK in fields:
        return Source(own.read_config(fields, folder), OWN, found)
    return Source(config_from_hf(fields), ARCHITECTURES[fields["model_type"]], found, scales_attention(fields))


def _nanogpt(config: GPTConfig, found: Tensors) -> Source:
    return Source(config, NANOGPT, found)


def _named(path: Path) -> Path:
    """The path of a file of the hub's cache under its name in a snapshot, where it was given as the nameless blob."""
    if path.parent.name != "blobs":
        return path
    links = path.parent.parent.glob("snapshots/*/*")
    return next((link for link in sorted(links) if link.resolve() == path.resolve()), path)
