"""A GPT as a folder that another library opens."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from converters.architectures import ARCHITECTURES, Architecture, Row, sizes
from converters.atomic_dir import atomic_dir
from converters.export import export_weights, select_architecture
from converters.formats import llmc, nanogpt
from converters.formats.safetensors_files import DTYPES, INDEX, SINGLE
from converters.gpt2_tokenizer import END_OF_TEXT_ID, copy_tokenizer, write_gpt2_tokenizer
from converters.hf_config import config_to_hf
from converters.model_card import model_card
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters

SHARD_BYTES = 5_000_000_000
GPT2_VOCABULARY = 50257


def save_pretrained(
    model: GPT,
    folder: str | Path,
    architecture: str = "auto",
    dtype: Any | None = None,
    *,
    tokenizer: str | Path | None = None,
    shard_bytes: int = SHARD_BYTES,
    allow_nonfinite: bool = False,
    origin: str = "a model in memory",
    check: Callable[[Path], None] | None = None,
) -> str:
    """Write the model into a new folder; returns the architecture it was exported as.

    architecture: gpt2, gpt_bigcode or starcoder2, which AutoModelForCausalLM and AutoTokenizer open; nanogpt, a
    ckpt.pt; llm.c, a model.bin; or auto, the first of transformers' that can hold the model.
    dtype is what the weights are stored in: float32 (also for None), bfloat16 or float16. The tokenizer's files are
    copied from the folder `tokenizer`; without one they are GPT-2's where the vocabulary has its size. `origin` is what
    the model card says the weights come from. `check` is called with the finished files, and may raise. The folder
    appears whole or not at all.

    Raises UserError where the architecture cannot hold the model, the folder is not empty, or a weight is not a finite
    number in this dtype (unless allow_nonfinite).
    """
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
        else:
            write_config(model.config, kind, draft, stored)
            write_weights(model, ARCHITECTURES[kind], draft, stored, shard_bytes)
            write_tokenizer(model.config, draft, tokenizer)
        (draft / "README.md").write_text(model_card(model, kind, stored.name, origin), encoding="utf-8")
        if check is not None:
            check(draft)
    return kind


def write_config(config: GPTConfig, kind: str, folder: Path, dtype: np.dtype) -> None:
    """The files config.json and generation_config.json."""
    end_of_text = END_OF_TEXT_ID if config.vocab_size > END_OF_TEXT_ID else None
    write_json(folder / "config.json", config_to_hf(config, kind, dtype.name, end_of_text))
    write_json(folder / "generation_config.json", {"bos_token_id": end_of_text, "eos_token_id": end_of_text})


STORED = {"nanogpt": ("float32",), "llm.c": ("float32", "bfloat16")}


def storage_dtype(dtype: Any | None, kind: str) -> np.dtype:
    """What weights are stored in. Raises UserError where the architecture's files do not hold it."""
    names = {stored.name: stored for stored in DTYPES.values()}
    allowed = STORED.get(kind, tuple(names))
    name = "float32" if dtype is None else dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
    if name not in allowed:
        raise UserError(f"dtype={dtype!r} cannot be stored as {kind}; use {' or '.join(allowed)}")
    return names[name]


def write_weights(model: GPT, architecture: Architecture, folder: Path, dtype: np.dtype, shard_bytes: int) -> None:
    """The safetensors files, of at most `shard_bytes` (or one tensor), with an index where there are several."""
    parameters, letters = named_parameters(model), sizes(model.config)
    rows = list(architecture.rows(model.config, parameters))
    shards = list(split_into_shards(rows, model.config, dtype, shard_bytes))
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {
            architecture.full_name(row.theirs): np.ascontiguousarray(row.tensor(parameters, letters).astype(dtype))
            for row in shard
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody else read it
        where |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(size_of(row, model.config, dtype) for row in rows)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def check_finite(model: GPT, dtype: np.dtype) -> None:
    """Raise UserError with the parameters that hold NaN or infinity once they are of this dtype."""
    if broken := [n for n, value in named_parameters(model).items() if not jnp.isfinite(value.astype(dtype)).all()]:
        raise UserError(f"NaN or infinity in {', '.join(broken)} as {dtype}: use a wider dtype, or allow_nonfinite")


def split_into_shards(rows: list[Row], config: GPTConfig, dtype: np.dtype, limit: int) -> Iterator[list[Row]]:
    """The rows in groups of at most `limit` bytes; a larger tensor is a group of its own."""
    group: list[Row] = []
    for row in rows:
        if group and sum(size_of(one, config, dtype) for one in [*group, row]) > limit:
            yield group
            group = []
        group.append(row)
    yield group


def size_of(row: Row, config: GPTConfig, dtype: np.dtype) -> int:
    """Bytes of one tensor of theirs."""
    return int(np.prod(row.layout.shape(sizes(config)))) * dtype.itemsize


def write_tokenizer(config: GPTConfig, folder: Path, source: str | Path | None) -> None:
    """The files of the tokenizer, where it is known. Raises UserError where `source` has none."""
    if source is not None:
        if not copy_tokenizer(Path(source), folder):
            raise UserError(f"{source} has no tokenizer files, such as tokenizer.json")
    elif config.vocab_size == GPT2_VOCABULARY:
        write_gpt2_tokenizer(folder, config.context_length)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """A JSON file that a person can read."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
