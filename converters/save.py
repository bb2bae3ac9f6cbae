"""A GPT as a folder that another library opens."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from converters.architectures import ARCHITECTURES
from converters.atomic_dir import atomic_dir
from converters.companions import copy_tokenizer, generation_settings, special_tokens
from converters.export import export_weights, select_architecture
from converters.formats import gguf_tables, gguf_writer, llmc, nanogpt, own
from converters.formats.safetensors_writer import shard_name, size_of, split_into_shards, write_weights
from converters.formats.tensors import DTYPES
from converters.gpt2_tokenizer import write_gpt2_tokenizer
from converters.hf_config import config_to_hf
from converters.model_card import model_card
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.lora import merge_adapters
from jaxgpt.model.parameters import named_parameters, num_parameters

SHARD_BYTES = 5_000_000_000
GPT2_VOCABULARY = 50257


def save_pretrained(
    model: GPT,
    folder: str | Path,
    architecture: str = "auto",
    dtype: Any | None = None,
    *,
    tokenizer: str | Path | None = None,
    carry_from: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    allow_nonfinite: bool = False,
    origin: str = "a model in memory",
    check: Callable[[Path], None] | None = None,
) -> str:
    """Write the model into a new folder; returns the architecture it was exported as. The folder appears whole or not
    at all.

    architecture: gpt2, gpt_bigcode or starcoder2, which AutoModelForCausalLM and AutoTokenizer open; nanogpt, a
    ckpt.pt; llm.c, a model.bin; gguf, a model.gguf for llama.cpp; jaxgpt, our own layout, which holds any model; or
    auto, the first of transformers' that can hold it.
    dtype: what the weights are stored in, float32 (also for None), bfloat16 or float16; gguf has q8_0, too.
    tokenizer: a folder whose tokenizer files are copied. carry_from: a Hugging Face folder whose tokenizer files,
    special token ids and generation settings are carried over. Without either the tokenizer is GPT-2's where the
    vocabulary has its size.
    origin: what the model card says the weights come from. check: called with the finished files; what it raises keeps
    the folder from appearing.

    Raises UserError where the architecture cannot hold the model, the folder is not empty, or a weight is not a finite
    number in this dtype (unless allow_nonfinite).

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from flax import nnx
        >>> from converters import save_pretrained
        >>> from jaxgpt import GPT, GPTConfig
        >>> folder = tempfile.mkdtemp() + "/model"
        >>> model = GPT(GPTConfig.preset("tiny", num_kv_heads=1), rngs=nnx.Rngs(0))
        >>> save_pretrained(model, folder, dtype="bfloat16")  # GPT-2 has no multi-query attention; this one has
        'gpt_bigcode'
        >>> (Path(folder) / "model.safetensors").exists()
        True
    """
    model = merge_adapters(model)
    kind = select_architecture(model.config, architecture)
    stored = storage_dtype(dtype, kind)
    if not allow_nonfinite:
        check_finite(model, stored)
    with atomic_dir(Path(folder)) as draft:
        model = export_weights(model, kind)
        if kind == "nanogpt":
            nanogpt.write_nanogpt(model, draft / nanogpt.FILE)
        elif kind == "llm.c":
            llmc.write_llmc(model, draft / llmc.FILE, stored)
        elif kind == "gguf":
            write_gguf(model, draft, str(dtype), stored, tokenizer, None if carry_from is None else Path(carry_from))
        else:
            carried = None if carry_from is None else Path(carry_from)
            write_tokenizer(model.config, kind, draft, tokenizer, carried)
            write_config(model.config, kind, draft, stored, carried)
            write_weights(model, ARCHITECTURES[kind], draft, stored, shard_bytes)
        (draft / "README.md").write_text(model_card(model, kind, stored.name, origin), encoding="utf-8")
        if check is not None:
            check(draft)
    return kind


def write_config(config: GPTConfig, kind: str, folder: Path, dtype: np.dtype, carried: Path | None) -> None:
    """The files config.json and generation_config.json; special token ids from `carried`, or from the tokenizer."""
    if kind == "jaxgpt":
        return write_json(folder / "config.json", own.write_config(config, dtype.name))
    special = special_tokens(folder) if carried is None else special_tokens(carried)
    write_json(folder / "config.json", config_to_hf(config, kind, dtype.name, special))
    settings = {} if carried is None else generation_settings(carried)
    ids = {name: special.get(name) for name in ("bos_token_id", "eos_token_id")} | special
    return write_json(folder / "generation_config.json", ids | settings)


SINGLE_FILES = {"nanogpt": nanogpt.FILE, "llm.c": llmc.FILE, "gguf": gguf_tables.FILE}
STORED = {"nanogpt": ("float32",), "llm.c": ("float32", "bfloat16"), "gguf": tuple(gguf_tables.FILE_TYPES)}
ALIASES = {"f32": "float32", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "f16": "float16"}


def storage_dtype(dtype: Any | None, kind: str) -> np.dtype:
    """What weights are stored in. Raises UserError where the architecture's files do not hold it."""
    names = {stored.name: stored for stored in DTYPES.values()}
    allowed = STORED.get(kind, tuple(names))
    name = "float32" if dtype is None else dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    name = ALIASES.get(name, name)
    if name not in allowed:
        raise UserError(f"dtype={dtype!r} cannot be stored as {kind}; use {' or '.join(allowed)}")
    return names.get(name, np.dtype(np.float32))  # q8_0 is made from float32


def check_finite(model: GPT, dtype: np.dtype) -> None:
    """Raise UserError with the parameters that hold NaN or infinity once they are of this dtype."""
    if broken := [n for n, value in named_parameters(model).items() if not jnp.isfinite(value.astype(dtype)).all()]:
        raise UserError(f"NaN or infinity in {', '.join(broken)} as {dtype}: use a wider dtype, or allow_nonfinite")


def write_tokenizer(
    config: GPTConfig, kind: str, folder: Path, source: str | Path | None, carried: Path | None
) -> None:
    """The files of the tokenizer, where it is known. Raises UserError where `source` has none."""
    if source is not None:
        if not copy_tokenizer(Path(source), folder):
            raise UserError(f"{source} has no tokenizer files, such as tokenizer.json")
    elif carried is not None and copy_tokenizer(carried, folder):
        return
    elif config.vocab_size == GPT2_VOCABULARY and kind != "jaxgpt":  # ours says on loading that it has no tokenizer
        write_gpt2_tokenizer(folder, config.context_length)


def write_gguf(
    model: GPT, folder: Path, dtype: str, stored: np.dtype, tokenizer: str | Path | None, carried: Path | None
) -> None:
    """The file model.gguf; the tokenizer's files are part of it."""
    with TemporaryDirectory(prefix="jaxgpt-") as draft:
        write_tokenizer(model.config, "gguf", Path(draft), tokenizer, carried)
        special = special_tokens(Path(draft) if carried is None else carried)
        name = "q8_0" if dtype == "q8_0" else stored.name
        gguf_writer.write_gguf(model, folder / gguf_tables.FILE, name, Path(draft), special)


def planned_files(model: GPT, kind: str, dtype: Any | None, shard_bytes: int) -> dict[str, int]:
    """The weights files that `save_pretrained` would write, and their bytes without headers.

    Raises UserError where it would on the dtype.
    """
    stored = storage_dtype(dtype, kind)
    model = jax.eval_shape(lambda model: export_weights(model, kind), model)
    if kind in SINGLE_FILES:
        return {SINGLE_FILES[kind]: num_parameters(model) * stored.itemsize}
    rows = list(ARCHITECTURES[kind].rows(model.config, named_parameters(model)))
    shards = list(split_into_shards(rows, model.config, stored, shard_bytes))
    return {
        shard_name(number, len(shards)): sum(size_of(row, model.config, stored) for row in shard)
        for number, shard in enumerate(shards, 1)
    }


UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """The bytes that a text such as 500MB, 2GB or 1.5 GiB says. Raises UserError on any other."""
    found = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]?I?B)\s*", text.upper())
    if not found or found[2] not in UNITS or float(found[1]) == 0:
        raise UserError(f"{text!r} is not a size of files; write a number and a unit, such as 500MB or 2GB")
    return int(float(found[1]) * UNITS[found[2]])


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file that a person can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
