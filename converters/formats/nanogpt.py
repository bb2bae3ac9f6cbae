"""nanoGPT's ckpt.pt, read and written: GPT-2 with Linear layers, exact GELU and optional biases."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from converters.architectures import NANOGPT, sizes
from converters.files import shown
from converters.formats.tensors import Tensor, Tensors, unwrap
from converters.formats.torch_files import tensors_of, unpickled
from converters.hf_config import checked_config
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters

FILE = "ckpt.pt"
PADDED, REAL = 50304, 50257
"""nanoGPT pads GPT-2's vocabulary to this many rows; the rest are tokens that no text has."""

FIELDS = (
    ("n_layer", "num_layers"),
    ("n_head", "num_heads"),
    ("n_embd", "d_model"),
    ("block_size", "context_length"),
    ("bias", "bias"),
    ("vocab_size", "vocab_size"),
    ("dropout", "dropout"),
)
"""Their name in model_args, ours."""


def read_nanogpt(path: Path) -> tuple[GPTConfig, Tensors]:
    """The config and tensors of a checkpoint. A vocabulary of 50304 loses its 47 padding rows; dropout stays 0.

    Raises UserError where the file is something else, or model_args has fields that nanoGPT's GPT does not.
    """
    checkpoint = unpickled(path)
    args = checkpoint.get("model_args") if isinstance(checkpoint, dict) else None
    if not isinstance(args, dict) or "model" not in checkpoint:
        raise UserError(f"{path} has no model and model_args: it is no checkpoint of nanoGPT")
    config = _config(args, path)
    tensors, _ = unwrap(tensors_of(checkpoint["model"], path))  # nanoGPT's own checkpoints of a compiled model are so
    if args["vocab_size"] == PADDED:
        config = dataclasses.replace(config, vocab_size=REAL)
        tensors |= {
            name: _cut(tensors[name]) for name in ("transformer.wte.weight", "lm_head.weight") if name in tensors
        }
    return config, tensors


def write_nanogpt(model: GPT, path: Path) -> None:
    """A checkpoint that nanoGPT's train.py resumes from, with a fresh optimizer. Raises UserError without torch."""
    try:
        import torch
    except ImportError:
        raise UserError("writing ckpt.pt needs torch: pip install 'jaxgpt[torch]'") from None
    parameters, letters = named_parameters(model), sizes(model.config)
    state = {
        NANOGPT.full_name(row.theirs): torch.from_numpy(np.array(row.tensor(parameters, letters), np.float32))
        for row in NANOGPT.rows(model.config, parameters)
    }
    groups = [[t for t in state.values() if t.ndim >= 2], [t for t in state.values() if t.ndim < 2]]
    decays = [{"params": group, "weight_decay": decay} for group, decay in zip(groups, (0.1, 0.0))]
    optimizer = torch.optim.AdamW(decays, lr=6e-4, betas=(0.9, 0.95))
    state["lm_head.weight"] = state["transformer.wte.weight"]
    args = {theirs: getattr(model.config, ours) for theirs, ours in FIELDS}
    rest = {"optimizer": optimizer.state_dict(), "iter_num": 0, "best_val_loss": 1e9, "config": {}}
    torch.save({"model": state, "model_args": args, **rest}, path)


def _config(args: dict[str, Any], path: Path) -> GPTConfig:
    names = {theirs for theirs, _ in FIELDS}
    if names - {"dropout"} - args.keys() or args.keys() - names:
        wrong = sorted(map(str, (names - {"dropout"}).symmetric_difference(args.keys() - {"dropout"})))
        raise UserError(f"{path}: model_args lacks, or has beyond nanoGPT's, {shown(', '.join(wrong))[1:-1]}")
    fields = {ours: args[theirs] for theirs, ours in FIELDS if theirs != "dropout"}
    if not isinstance(fields["bias"], bool):
        raise UserError(f"{path}: bias={shown(fields['bias'])} in model_args has to be True or False")
    for theirs, ours in FIELDS:
        if theirs not in ("bias", "dropout") and type(fields[ours]) is not int:
            raise UserError(f"{path}: {theirs}={shown(fields[ours])} in model_args has to be a whole number")
    return checked_config(fields | {"activation": "gelu"})


def _cut(tensor: Tensor) -> Tensor:
    return Tensor((min(REAL, tensor.shape[0]), *tensor.shape[1:]), tensor.dtype, lambda: tensor.view()[:REAL])
