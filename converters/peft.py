"""The adapters of a model as a folder that PEFT opens; `converters.lora` reads such folders."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from converters.architectures import ARCHITECTURES
from converters.atomic_dir import atomic_dir
from converters.lora import CONFIG, FILES
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.lora import has_adapters
from jaxgpt.model.parameters import named_parameters


def save_adapter(model: GPT, folder: str | Path, base: str, architecture: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors into a new folder, for a base model of transformers.

    Where one tensor of theirs holds several of our kernels, as c_attn holds query, key and value, its adapter has the
    rank of all together: A below each other, B along the diagonal. Raises UserError where there is no adapter.
    """
    if not has_adapters(model):
        raise UserError("the model has no adapters to write: train it with lora")
    parameters = {name: np.asarray(value, np.float32) for name, value in named_parameters(model).items()}
    some = model.blocks[0].mlp.up.adapter
    assert some is not None
    rank, alpha = some.b.shape[0], some.scale * some.b.shape[0]
    tensors: dict[str, np.ndarray] = {}
    parts: dict[str, int] = {}
    rows = ARCHITECTURES[architecture]
    for row in rows.all_rows(model.config):
        names = [name.removesuffix("kernel") + "adapter." for name in row.ours if name.endswith(".kernel")]
        if not names:
            continue
        module = row.theirs.removesuffix(".weight")
        parts[module.split(".")[-1]] = len(names)
        full = f"base_model.model.{rows.full_name(module)}"
        tensors[f"{full}.lora_A.weight"] = np.concatenate([parameters[f"{name}a"].T for name in names])
        tensors[f"{full}.lora_B.weight"] = _diagonal([parameters[f"{name}b"].T for name in names])
    fused = {module: count for module, count in parts.items() if count > 1}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {module: count * rank for module, count in fused.items()},
        "alpha_pattern": {module: count * alpha for module, count in fused.items()},
        "target_modules": sorted(parts),
        "fan_in_fan_out": architecture == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    with atomic_dir(Path(folder)) as draft:
        (draft / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, draft / FILES[0])


def _diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    """Matrices along the diagonal of one that is else zero."""
    whole = np.zeros(np.sum([block.shape for block in blocks], axis=0), np.float32)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole
