"""GGUF files of llama.cpp, read: config, tensors and tokenizer of its architectures gpt2, starcoder, starcoder2.

Every count in the file is held against the bytes that are left before it is believed.
"""

import json
import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from converters.architectures import Architecture
from converters.files import regular_file, shown
from converters.formats.gguf_tables import ARCHITECTURES, BLOCK, CONTROL, FIELDS, UNUSED, USER_DEFINED
from converters.formats.tensors import Tensor, Tensors
from converters.gpt2_tokenizer import tokenizer_json
from converters.hf_config import checked_config
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
"""The types of values by their number in the file; besides these there are strings and arrays."""
STRING, ARRAY = 8, 9
PLAIN = {0: np.dtype(np.float32), 1: np.dtype(np.float16), 30: np.dtype(ml_dtypes.bfloat16)}
Q8_0 = 8
SCALED = np.dtype([("scale", "<f2"), ("numbers", "i1", BLOCK)])
"""A block of q8_0: numbers that share a scale."""
HEAD, TABLE = "output.weight", "token_embd.weight"


class Content(NamedTuple):
    """A file, taken apart."""

    fields: dict[str, Any]
    tensors: Tensors


def read_gguf(path: Path) -> tuple[GPTConfig, Architecture, Tensors]:
    """The config, table and tensors of a file.

    Raises UserError where the file is broken, of another architecture, or has tensors in other types than float32,
    float16, bfloat16 and q8_0.
    """
    fields, tensors = _content(path)
    name = fields.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise UserError(f"{path} holds a model of architecture {shown(name)}, not one of {', '.join(ARCHITECTURES)}")
    if (scaling := fields.get(f"{name}.rope.scaling.type", "none")) != "none":
        raise UserError(f"{path} scales its rotary positions ({shown(scaling)}), which our model cannot honour")
    if unread := [name for name, tensor in tensors.items() if tensor.dtype is None]:
        held = (
            f"{len(unread)} tensors of other types than float32, float16, bfloat16 and q8_0, such as {shown(unread[0])}"
        )
        raise UserError(f"{path} has {held}: take a file of one of these types")
    if TABLE not in tensors or len(tensors[TABLE].shape) != 2:
        raise UserError(f"{path} has no embedding table {TABLE}: get it again")
    tied = HEAD not in tensors or _equal(tensors[HEAD], tensors[TABLE])
    if tied:
        tensors.pop(HEAD, None)  # older files repeat the table
    ours = {our: fields[f"{name}.{their}"] for their, our in FIELDS if f"{name}.{their}" in fields}
    if ours.get("num_kv_heads") == ours.get("num_heads"):
        ours.pop("num_kv_heads", None)  # as a config says it that has no such field
    if ours.get("d_mlp") == 4 * ours.get("d_model", 0):
        ours.pop("d_mlp")
    ours |= {"vocab_size": tensors[TABLE].shape[0], "tie_embeddings": tied}
    ours["position"] = "rotary" if name == "starcoder2" else "learned"
    return checked_config(ours), ARCHITECTURES[name], tensors


def write_gguf_tokenizer(path: Path, folder: Path) -> bool:
    """Write the tokenizer in a file as tokenizer.json and tokenizer_config.json; whether there is one.

    Raises UserError where it is not one of byte pairs, split as GPT-2 splits.
    """
    fields = _content(path).fields
    kind = (fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2"))
    if kind[0] in (None, "none"):
        return False
    tokens, merges = (_texts(fields.get(f"tokenizer.ggml.{name}")) for name in ("tokens", "merges"))
    if kind != ("gpt2", "gpt-2") or tokens is None or merges is None:
        raise UserError(f"{path} has a tokenizer of kind {shown(kind)}, not GPT-2's kind: name another by --tokenizer")
    types = dict(enumerate(fields.get("tokenizer.ggml.token_type") or []))
    vocab = {token: i for i, token in enumerate(tokens) if types.get(i) != UNUSED}
    added = {token: types[i] == CONTROL for token, i in vocab.items() if types.get(i) in (CONTROL, USER_DEFINED)}
    content = tokenizer_json(vocab, [tuple(merge.split(" ", 1)) for merge in merges], added)
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    ids = {kind: fields.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    named = {f"{kind}_token": tokens[i] for kind, i in ids.items() if isinstance(i, int) and 0 <= i < len(tokens)}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return True


def _content(path: Path) -> Content:
    """Raises UserError where the bytes are not a whole GGUF file."""
    with regular_file(path).open("rb") as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return _Cursor(data).content(path)
        except (ValueError, TypeError, ArithmeticError) as error:
            raise UserError(f"{path} is not a whole GGUF file ({shown(str(error))[1:-1]}): get it again") from None


class _Cursor:
    """A place in a file, which moves on with what is read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def content(self, path: Path) -> Content:
        magic, version = self.take(4), self.number("<u4")
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError(f"it begins with {magic!r} and version {version}")
        tensors, values = self.number("<u8"), self.number("<u8")
        fields = {}
        for _ in range(values):
            name = self.text()
            fields[name] = self.value(self.number("<u4"))
        listed = [self.tensor_info() for _ in range(tensors)]
        alignment = fields.get("general.alignment", 32)
        start = -(-self.at // alignment) * alignment
        found = {name: self.tensor(path, name, shape, kind, start + offset) for name, shape, kind, offset in listed}
        if len(found) < len(listed):
            raise ValueError("a tensor's name occurs twice")
        return Content(fields, found)

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, dtype: str) -> Any:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0].item()

    def text(self) -> str:
        return self.take(self.number("<u8")).decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.number("<u4"), self.number("<u8")
            if inner in NUMBERS:
                return np.frombuffer(self.take(count * np.dtype(NUMBERS[inner]).itemsize), NUMBERS[inner]).tolist()
            if inner != STRING:
                raise ValueError(f"an array of type {inner}")
            return [self.text() for _ in range(count)]  # each takes eight bytes at least, or ends this
        if kind not in NUMBERS:
            raise ValueError(f"a value of type {kind}")
        value = self.number(NUMBERS[kind])
        return float(str(np.float32(value))) if NUMBERS[kind] == "<f4" else value  # 1e-05, not 9.999999747378752e-06

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, axes = self.text(), self.number("<u4")
        shape = np.frombuffer(self.take(8 * axes), "<u8").tolist()
        return name, tuple(reversed(shape)), self.number("<u4"), self.number("<u8")

    def tensor(self, path: Path, name: str, shape: tuple[int, ...], kind: int, offset: int) -> Tensor:
        count = math.prod(shape)
        if kind not in PLAIN and kind != Q8_0:
            return Tensor(shape, None, lambda: np.zeros(0))
        stored = PLAIN.get(kind, SCALED)
        number = count if kind in PLAIN else count // BLOCK
        if offset + number * stored.itemsize > len(self.data) or (kind == Q8_0 and (shape or (1,))[-1] % BLOCK):
            raise ValueError(f"{shown(name)} does not fit into it")

        def view() -> np.ndarray:
            raw = np.memmap(path, stored, "r", offset, (number,)) if count else np.zeros(0, stored)
            if kind == Q8_0:
                raw = raw["scale"].astype(np.float32)[:, None] * raw["numbers"]
            return raw.reshape(shape)

        return Tensor(shape, PLAIN.get(kind, np.dtype(np.float32)), view)


def _texts(values: Any) -> list[str] | None:
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one.view(), other.view())
