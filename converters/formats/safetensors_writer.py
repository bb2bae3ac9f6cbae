"""safetensors files, written: as few as a limit of bytes allows, with an index where there are several."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from converters.architectures import Architecture, Row, sizes
from converters.formats.safetensors_files import INDEX, SINGLE
from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import named_parameters


def write_weights(model: GPT, architecture: Architecture, folder: Path, dtype: np.dtype, shard_bytes: int) -> None:
    """The safetensors files, of at most `shard_bytes` (or one tensor), with an index where there are several."""
    parameters, letters = named_parameters(model), sizes(model.config)
    rows = list(architecture.rows(model.config, parameters))
    shards = list(split_into_shards(rows, model.config, dtype, shard_bytes))
    where: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = shard_name(number, len(shards))
        tensors = {
            architecture.full_name(row.theirs): np.ascontiguousarray(row.tensor(parameters, letters).astype(dtype))
            for row in shard
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        (folder / file).chmod((folder / "config.json").stat().st_mode)  # safetensors lets nobody else read it
        where |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        total = sum(size_of(row, model.config, dtype) for row in rows)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


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


def shard_name(number: int, count: int) -> str:
    """The name of a weights file, as transformers spells it."""
    return SINGLE if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
