"""GGUF files of llama.cpp, written."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from converters.architectures import Architecture, sizes
from converters.files import read_json
from converters.formats.gguf_tables import (
    ARCHITECTURES,
    BLOCK,
    CONTROL,
    FILE_TYPES,
    NORMAL,
    POSITIONS,
    UNUSED,
    USER_DEFINED,
)
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters


def write_gguf(model: GPT, path: Path, dtype: str, tokenizer: Path, special_tokens: dict[str, Any]) -> None:
    """A file that llama.cpp opens; the tokenizer is that of the folder `tokenizer`, where it is one of byte pairs.

    Raises UserError without the package gguf.
    """
    if find_spec("gguf") is None:
        raise UserError("writing GGUF needs the package gguf: pip install 'jaxgpt[gguf]'")
    import gguf

    architecture = ARCHITECTURES[llama_architecture(model.config)]
    writer = gguf.GGUFWriter(path, architecture.name)
    _add_config(writer, model.config, FILE_TYPES[dtype][1])
    _add_tokenizer(writer, model.config.vocab_size, tokenizer, special_tokens)
    for name, tensor in _tensors(model, architecture):
        kind = gguf.GGMLQuantizationType[_type_of(name, tensor, dtype)]
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_architecture(config: GPTConfig) -> str:
    """The architecture of llama.cpp that computes the same."""
    if config.position == "rotary":
        return "starcoder2"
    return "gpt2" if config.kv_heads == config.num_heads else "starcoder"


def _tensors(model: GPT, architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
    parameters = named_parameters(model)
    for row in architecture.rows(model.config, parameters):
        yield row.theirs, np.ascontiguousarray(row.tensor(parameters, sizes(model.config)), np.float32)


def _type_of(name: str, tensor: np.ndarray, dtype: str) -> str:
    if tensor.ndim == 1 or name == POSITIONS:
        return "F32"
    return "F16" if dtype == "q8_0" and tensor.shape[-1] % BLOCK else FILE_TYPES[dtype][0]


def _add_config(writer: Any, config: GPTConfig, file_type: int) -> None:
    writer.add_file_type(file_type)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.d_model)
    writer.add_feed_forward_length(config.mlp_width)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    if config.position == "rotary":
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_rope_dimension_count(config.head_dim)


def _add_tokenizer(writer: Any, vocab_size: int, folder: Path, special_tokens: dict[str, Any]) -> None:
    """GPT-2's kind of byte pairs; any other is left out, and llama.cpp then takes and gives token ids."""
    content = read_json(folder / "tokenizer.json") if (folder / "tokenizer.json").exists() else {}
    if not is_gpt2_like(content):
        return writer.add_tokenizer_model("none")
    tokens, types = [f"[UNUSED{i}]" for i in range(vocab_size)], [UNUSED] * vocab_size
    for token, i in content["model"]["vocab"].items():
        tokens[i], types[i] = token, NORMAL
    for added in content.get("added_tokens") or []:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added.get("special") else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    for kind, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        ids = special_tokens.get(f"{kind}_token_id")
        first = ids[0] if isinstance(ids, list) and ids else ids
        if type(first) is int and 0 <= first < vocab_size:
            add(first)
    writer.add_add_bos_token(False)
    return None


def is_gpt2_like(tokenizer: dict[str, Any]) -> bool:
    """Whether a tokenizer.json has byte pairs, split as GPT-2 splits: what llama.cpp's gpt-2 does."""
    model, before = tokenizer.get("model"), tokenizer.get("pre_tokenizer")
    if not isinstance(model, dict) or not isinstance(before, dict):
        return False
    split = before.get("type") == "ByteLevel" and before.get("use_regex", True) and not before.get("add_prefix_space")
    return bool(split) and model.get("type", "BPE") == "BPE" and tokenizer.get("normalizer") is None
