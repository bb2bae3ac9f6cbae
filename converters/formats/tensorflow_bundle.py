"""OpenAI's GPT-2 as it was published: a checkpoint of TensorFlow, read without TensorFlow.

A tensor bundle is NAME.index, a sorted table of blocks as LevelDB has them whose values say where each tensor lies, and
NAME.data-00000-of-00001, the plain numbers. Snapshots of fine-tuned models (gpt-2-simple) are the same.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from converters.files import read_json, regular_file, shown
from converters.formats.tensors import Tensor, Tensors
from converters.hf_config import checked_config
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

HPARAMS = "hparams.json"
FIELDS = (
    ("n_vocab", "vocab_size"),
    ("n_ctx", "context_length"),
    ("n_embd", "d_model"),
    ("n_head", "num_heads"),
    ("n_layer", "num_layers"),
)
"""Their name in hparams.json, ours."""
INDEX_BYTES = 10_000_000
FOOTER, MAGIC = 48, 0xDB4775248B80FB57
DTYPES = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 14: np.dtype(ml_dtypes.bfloat16), 19: np.dtype("<f2")}
"""The numbers that TensorFlow gives to types of floats."""
LEAVES = {"w": "weight", "g": "weight", "b": "bias", "wte": "wte.weight", "wpe": "wpe.weight"}


class Entry(NamedTuple):
    """What the index says of a tensor: field numbers of BundleEntryProto."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def read_tensorflow(folder: Path) -> tuple[GPTConfig, Tensors]:
    """The config and tensors of a folder, under the names of GPT-2 in transformers.

    Raises UserError where the folder has no checkpoint, or a broken one.
    """
    hparams = read_json(folder / HPARAMS)
    if missing := [theirs for theirs, _ in FIELDS if theirs not in hparams]:
        raise UserError(f"{folder / HPARAMS} lacks {', '.join(missing)}: get it again")
    index = _index(folder)
    data = regular_file(index.with_suffix(".data-00000-of-00001"))
    try:
        entries = dict(_entries(regular_file(index, INDEX_BYTES).read_bytes()))
        tensors = {_name(name): _tensor(data, name, entry) for name, entry in entries.items()}
    except (ValueError, IndexError, TypeError) as error:
        reason = shown(str(error))[1:-1]
        raise UserError(f"{index} is not a whole index of TensorFlow ({reason}): get it again") from None
    return checked_config({ours: hparams[theirs] for theirs, ours in FIELDS}), tensors


def _index(folder: Path) -> Path:
    """The index that the file `checkpoint` names, or the only one."""
    found = {path.name: path for path in folder.glob("*.index")}
    latest = folder / "checkpoint"
    if len(found) > 1 and latest.is_file():
        text = regular_file(latest, INDEX_BYTES).read_text(encoding="utf-8", errors="replace")
        named = re.search(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"', text, re.MULTILINE)
        found = {name: path for name, path in found.items() if named and name == f"{named[1]}.index"}
    if len(found) != 1:
        raise UserError(f"{folder} has {HPARAMS}, and no single checkpoint such as model.ckpt.index: get it again")
    return next(iter(found.values()))


def _entries(table: bytes) -> Iterator[tuple[str, Entry]]:
    """The tensors' names and places: the entries of all blocks that the index of blocks names."""
    footer = table[-FOOTER:]
    if len(footer) < FOOTER or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise ValueError("its last bytes are not those of a table")
    _, at = _handle(footer, 0)
    (start, size), _ = _handle(footer, at)
    for _, handle in _block(table, start, size):
        for key, value in _block(table, *_handle(handle, 0)[0]):
            if key:  # the empty key has the header
                yield key.decode(), _entry(value)


def _block(table: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block; each key is told by what it shares with the one before."""
    block = table[start : start + size + 1]
    if len(block) <= size or block[size] != 0:
        raise ValueError("a block is cut off, or compressed, as checkpoints are not")
    restarts = int.from_bytes(block[size - 4 : size], "little")
    end, at, key = size - 4 - 4 * restarts, 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        yield key, block[at + rest : at + rest + length]
        at += rest + length


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """The start and size of a block, and where they end."""
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _entry(message: bytes) -> Entry:
    found = dict(_fields(message))
    shape = tuple(dict(_fields(axis)).get(1, 0) for number, axis in _fields(found.get(2, b"")) if number == 2)
    return Entry(found.get(1, 0), shape, found.get(3, 0), found.get(4, 0), found.get(5, 0))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The field numbers and values of a protocol buffer message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind in (1, 2, 5):
            size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of wire type {kind}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number has too many bytes")


def _tensor(data: Path, name: str, entry: Entry) -> Tensor:
    dtype, count = DTYPES.get(entry.dtype), math.prod(entry.shape)
    if dtype is None:  # a counter of steps: its name will be refused
        return Tensor(entry.shape, None, lambda: np.zeros(0))
    if entry.shard or entry.size != count * dtype.itemsize or entry.offset + entry.size > data.stat().st_size:
        raise ValueError(f"{shown(name)} does not lie in {data.name}")
    shape = entry.shape[1:] if entry.shape[:1] == (1,) and len(entry.shape) == 3 else entry.shape  # convolutions over 1

    def view() -> np.ndarray:
        return np.memmap(data, dtype, "r", entry.offset, shape) if count else np.zeros(shape, dtype)

    return Tensor(shape, dtype, view)


def _name(name: str) -> str:
    """model/h3/attn/c_attn/w is h.3.attn.c_attn.weight in transformers."""
    *path, leaf = re.sub(r"^model/(h(?=\d))?", lambda found: "h." if found[1] else "", name).split("/")
    return ".".join([*path, LEAVES.get(leaf, leaf)])
