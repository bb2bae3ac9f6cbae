"""LoRA adapters of PEFT, merged into the weights they were trained on (Hu et al. 2021, equation 3)."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from converters.architectures import HEAD
from converters.files import read_json, shown
from converters.formats import safetensors_files, torch_files
from converters.formats.tensors import Tensor, Tensors, unwrap
from converters.sources import Source
from jaxgpt.errors import UserError

CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
PAIRS = {"lora_A.weight": "lora_B.weight", "lora_embedding_A": "lora_embedding_B"}
"""The ends of the names of a module's two factors."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model beside it. Raises UserError where it holds both."""
    if not (folder / CONFIG).exists():
        return False
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds both {CONFIG} and config.json: move the adapter to a folder of its own")
    return True


def read_adapter(folder: Path, read_base: Callable[[str], Source]) -> Source:
    """The base model that an adapter names, with the adapter's weights merged into it.

    Raises UserError where the adapter is of another kind than LoRA, or does not fit its base.
    """
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else shown(config.get("peft_type"))
        raise UserError(
            f"{folder} is an adapter of kind {kind}, and only LoRA is merged here: merge it with PEFT first"
        )
    base = base_of(folder)
    try:
        source = read_base(base)
    except UserError as error:
        raise UserError(f"the base model of the adapter {folder} cannot be read: {error}") from error
    return _merged(source, _weights(folder), config, folder)


def base_of(folder: Path) -> str:
    """The path or hub id of the model that an adapter was trained on. Raises UserError where it names none."""
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder}/{CONFIG} does not name base_model_name_or_path: write the base model's path there")
    return base


def _weights(folder: Path) -> Tensors:
    for file, read in zip(FILES, (safetensors_files.read_safetensors, torch_files.read_bin)):
        if (folder / file).exists():
            return unwrap(read(folder / file))[0]
    raise UserError(f"{folder} has neither {' nor '.join(FILES)}: no adapter's weights to load")


def _merged(source: Source, adapter: Tensors, config: dict[str, Any], folder: Path) -> Source:
    architecture = source.architecture
    tensors = {architecture.short_name(name): tensor for name, tensor in unwrap(source.tensors)[0].items()}
    left = {architecture.short_name(name): tensor for name, tensor in adapter.items()}
    for end_a, end_b in PAIRS.items():
        for name in [name for name in left if name.endswith(end_a)]:
            module = name.removesuffix(end_a).removesuffix(".")
            a, b = left.pop(name), left.pop(f"{module}.{end_b}", None)
            weight = tensors.get(f"{module}.weight")
            if b is None or weight is None:
                raise UserError(f"{folder} has {name} without {end_b}, or the base model has no {module}.weight")
            if f"{module}.weight" == HEAD and source.config.tie_embeddings:
                raise UserError(f"{folder} changes {HEAD}, which is the embedding table: merge it with PEFT, untied")
            turned = end_a == "lora_embedding_A" or (
                architecture.name == "gpt2" and module != HEAD.removesuffix(".weight")
            )
            tensors[f"{module}.weight"] = _sum(
                weight, a, b, _scale(config, module, a, folder), turned, f"{folder}: {name}"
            )
    for name, tensor in left.items():
        _check_replaced(name, tensors, source, folder)
        tensors[name.replace(".modules_to_save", "").replace(".base_layer", "")] = tensor
    return source._replace(tensors=tensors)


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float, turned: bool, name: str) -> Tensor:
    """W + scale B A, in float32; `turned` where W is (in, out), as Conv1D and tables are."""
    shape = (b.shape[0], a.shape[1]) if len(a.shape) == len(b.shape) == 2 else ()
    if not shape or a.shape[0] != b.shape[1] or weight.shape != (shape[::-1] if turned else shape):
        raise UserError(
            f"{name} is {list(a.shape)} and {list(b.shape)}, which do not fit a weight {list(weight.shape)}"
        )
    if None in (weight.dtype, a.dtype, b.dtype):
        raise UserError(f"{name} is not of floating-point numbers")

    def view() -> np.ndarray:
        change = (b.view().astype(np.float32) @ a.view().astype(np.float32)) * np.float32(scale)
        return weight.view().astype(np.float32) + (change.T if turned else change)

    return Tensor(weight.shape, np.dtype(np.float32), view)


def _scale(config: dict[str, Any], module: str, a: Tensor, folder: Path) -> float:
    """Alpha / rank of a module, or alpha / sqrt(rank) (Kalajdzievski 2023)."""
    alpha = config.get("lora_alpha", 8)
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UserError(f"{folder}/{CONFIG} gives {shown(patterns)} for alpha_pattern, which has to be an object")
    for pattern, value in patterns.items():
        if not re.fullmatch(r"[\w.]+", pattern):
            raise UserError(f"{folder}/{CONFIG} has the alpha_pattern {shown(pattern)}, which is not a module's name")
        if f".transformer.{module}".endswith(f".{pattern}"):
            alpha = value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not a.shape or not a.shape[0]:
        raise UserError(f"{folder}/{CONFIG} gives {shown(alpha)} for lora_alpha, which has to be a number")
    return float(alpha) / (a.shape[0] ** 0.5 if config.get("use_rslora") else a.shape[0])


def _check_replaced(name: str, tensors: Tensors, source: Source, folder: Path) -> None:
    """Raise UserError where a whole tensor of the adapter cannot take the place of the base's."""
    plain = name.replace(".modules_to_save", "").replace(".base_layer", "")
    tables = (HEAD, *(row.theirs for row in source.architecture.all_rows(source.config) if row.ours == ("embed",)))
    if plain not in tensors:
        raise UserError(f"{folder} has {name}, which is no part of the base model: merge it with PEFT first")
    if plain in tables and source.config.tie_embeddings:
        raise UserError(f"{folder} replaces {plain}, which is tied to another name: merge it with PEFT, untied")
