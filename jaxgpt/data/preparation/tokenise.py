"""A block of documents as token ids: the work that is shared out over processes."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from jaxgpt.data.preparation.inputs import Input, Split
from jaxgpt.data.preparation.reading import START, Block, Place, not_utf8, read_blocks
from jaxgpt.data.pretokens import PIECE, pieces
from jaxgpt.data.token_files import token_dtype
from jaxgpt.data.tokenizer import GPT2Tokenizer, Tokenizer, gpt2_encoding
from jaxgpt.errors import UserError

HASHED = 1 << 16
"""Bytes of a document that decide its split; the first block of a long document has them all."""


@dataclass(frozen=True)
class Settings:
    """What decides the tokens of a document."""

    field: str = "text"
    """The name of the text in JSON and parquet."""
    errors: str = "strict"
    """strict: refuse what is not whole text; replace: bytes that are not UTF-8; skip: leave such a document out."""
    validation: float = 0.0
    """The fraction of the documents that validation gets, by their hashes."""
    separator: str = "before"
    """Where <|endoftext|> stands: before each document, after it, or none."""


class Part(NamedTuple):
    """Documents of one split, in order."""

    tokens: np.ndarray
    counts: np.ndarray
    """Tokens of each document, <|endoftext|> included."""
    bytes: np.ndarray
    """Of each document's text in UTF-8."""
    places: np.ndarray
    """Of each document, file and at of its Place: an array is sent between processes faster than its tuples."""

    def cut(self, at: int) -> "tuple[Part, Part]":
        """The first `at` tokens, and the others. The bytes of a document that is cut belong to the first."""
        ends = np.cumsum(self.counts)
        before, begun = int(np.searchsorted(ends, at, "right")), int(np.searchsorted(ends, at, "left")) + 1
        starts = ends - self.counts
        head = Part(
            self.tokens[:at], np.minimum(ends, at)[:begun] - starts[:begun], self.bytes[:begun], self.places[:begun]
        )
        whole_from = np.maximum(starts, at)[before:]
        sizes = np.where(starts < at, 0, self.bytes)[before:]
        return head, Part(self.tokens[at:], ends[before:] - whole_from, sizes, self.places[before:])


@dataclass
class Tokenised:
    """What has become of a block."""

    parts: dict[Split, Part] = field(default_factory=dict)
    empty: int = 0
    skipped: int = 0


def tokenise(block: Block, tokenizer: Tokenizer, settings: Settings) -> Tokenised:
    """The tokens of a block. Which split a document belongs to, its first piece alone knows.

    Raises:
        UserError: A document cannot be read.
    """
    result = Tokenised()
    gathered: dict[Split, list[tuple[list[np.ndarray], int, Place]]] = {}
    if block.kind == "piece":
        texts = block.documents
        if block.begins and block.ends and not "".join(texts).strip():
            return Tokenised(empty=1)
        split = block.split or split_of("".join(texts).encode(), settings)
        tokens = [encode(text, tokenizer) for text in texts]
        tokens = tokens if block.alone else _separated(tokens, tokenizer, settings, block.begins, block.ends)
        gathered[split] = [(tokens, sum(len(text.encode()) for text in texts), block.first)]
    else:
        for place, text in _texts(block, settings, result):
            if not text or text.isspace():
                result.empty += 1
                continue
            content = text.encode()
            split = block.split or split_of(content, settings)
            cut = pieces([text]) if len(text) > PIECE and cuts_like_gpt2(tokenizer) else [text]
            tokens = [encode(piece, tokenizer) for piece in cut]
            tokens = tokens if block.alone else _separated(tokens, tokenizer, settings)
            gathered.setdefault(split, []).append((tokens, len(content), place))
    for split, documents in gathered.items():
        result.parts[split] = Part(
            np.concatenate([array for arrays, _, _ in documents for array in arrays]),
            np.array([sum(map(len, arrays)) for arrays, _, _ in documents]),
            np.array([size for _, size, _ in documents]),
            np.array([place for _, _, place in documents]),
        )
    return result


def encode(text: str, tokenizer: Tokenizer) -> np.ndarray:
    """One piece of text as ids of the type of the token files."""
    if isinstance(tokenizer, GPT2Tokenizer):
        return gpt2_encoding().encode_to_numpy(text, disallowed_special=()).astype(_GPT2_DTYPE)
    return np.asarray(tokenizer.encode(text)).astype(token_dtype(tokenizer.vocab_size))


_GPT2_DTYPE = token_dtype(GPT2Tokenizer.vocab_size)


def cuts_like_gpt2(tokenizer: Tokenizer) -> bool:
    """Whether `pieces` cuts where this tokenizer cuts."""
    return tokenizer.name in ("gpt2", "char")


def split_of(content: bytes, settings: Settings) -> Split:
    """By the hash of a document's beginning: other documents have no say, and a long one is not read twice."""
    if not settings.validation:
        return "train"
    number = int.from_bytes(hashlib.sha256(content[:HASHED]).digest()[:8], "big")
    return "validation" if number < settings.validation * 2**64 else "train"


def _separated(
    tokens: list[np.ndarray], tokenizer: Tokenizer, settings: Settings, begins: bool = True, ends: bool = True
) -> list[np.ndarray]:
    if tokenizer.end_of_text is None:
        return tokens
    separator = _separator(tokenizer.end_of_text, tokenizer.vocab_size)
    if settings.separator == "before" and begins:
        return [separator, *tokens]
    if settings.separator == "after" and ends:
        return [*tokens, separator]
    return tokens


@cache
def _separator(end_of_text: int, vocab_size: int) -> np.ndarray:
    return np.array([end_of_text], token_dtype(vocab_size))


def _texts(block: Block, settings: Settings, result: Tokenised) -> Iterator[tuple[Place, str]]:
    """The documents with their places; those that cannot be read raise or are counted, as the settings say."""
    for place, name, document in _documents(block):
        try:
            text = _TEXT_OF[block.kind](name, document, settings)
        except UserError:
            if settings.errors != "skip":
                raise
            result.skipped += 1
        else:
            yield place, text


def _documents(block: Block) -> Iterator[tuple[Place, str, Any]]:
    """Each document as it lies, with its place and the name that a message gives it."""
    if block.kind == "file":
        for number, (name, content) in enumerate(block.documents, block.first.file):
            yield Place(number, 0), name, content
    elif block.kind == "line":
        for number, line in enumerate(block.documents.split(b"\n"), block.first.at):
            if line and not line.isspace():
                yield Place(block.first.file, number), f"{block.name}:{number + 1}", line
    else:
        for number, text in enumerate(block.documents, block.first.at):
            yield Place(block.first.file, number), f"{block.name}, row {number + 1}", text


def _text_of_file(name: str, content: bytes, settings: Settings) -> str:
    if b"\0" in content:
        raise UserError(f"{name} is not text in UTF-8: it holds a zero byte; leave it out")
    try:
        text = content.decode(errors="replace" if settings.errors == "replace" else "strict")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error.start) from None
    return text.removeprefix("\ufeff")


_decode_json = json.JSONDecoder().decode


def _text_of_line(name: str, line: bytes, settings: Settings) -> str:
    try:
        spelled = line.decode(errors="replace" if settings.errors == "replace" else "strict")
        record = _decode_json(spelled.removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise not_utf8(name, error.start) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{name} is not JSON ({error}): mend the line, or leave such lines out by --errors skip"
        ) from None
    if not isinstance(record, dict) or settings.field not in record:
        has = f"has {', '.join(map(repr, record))}" if isinstance(record, dict) else "is no object"
        raise UserError(
            f"{name} {has}, and the text is expected in {settings.field!r}: name the field by --text-field, "
            "or leave such lines out by --errors skip"
        )
    return _text_of_row(name, record[settings.field], settings)


def _text_of_row(name: str, text: Any, settings: Settings) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise UserError(
            f"{name} holds {text!r:.60} in {settings.field!r}, which is no text: name another field by --text-field, "
            "or leave such documents out by --errors skip"
        )
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may spell half a character: "\\ud83d"
        if settings.errors != "replace":
            raise UserError(
                f"{name} holds half a character ({text[error.start]!r}): mend it, or have such replaced by "
                "--errors replace"
            ) from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


_TEXT_OF = {"file": _text_of_file, "line": _text_of_line, "row": _text_of_row, "piece": _text_of_row}


def read_texts(inputs: Sequence[Input], settings: Settings, split: Split | None = None) -> Iterator[str]:
    """The documents of all inputs, or of one split, a long one in pieces, one after another."""
    kept = [one for one in inputs if split is None or one.split in (None, split)]
    for block in read_blocks(tuple(kept), settings.field, settings.errors, START):
        for _, text in _texts(block, settings, Tokenised()):
            if (
                split is None
                or block.split == split
                or (block.split is None and split_of(text.encode(), settings) == split)
            ):
                yield text
