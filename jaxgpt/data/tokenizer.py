"""Tokenizers: GPT-2's byte pairs, and single characters for the small presets."""

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tiktoken
from tiktoken_ext.openai_public import ENDOFTEXT, r50k_pat_str

from jaxgpt.errors import UserError

END_OF_TEXT = 50256
VOCABULARY_SHA256 = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


LONG_BLANK = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]{10000,}")
"""A run of white space (Unicode's property, as GPT-2's pattern has it) for which tiktoken may run out of stack."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids below `vocab_size`, and back."""

    name: str
    vocab_size: int
    end_of_text: int | None
    """The id that separates documents, where the vocabulary has one."""
    stop_tokens: tuple[int, ...]
    """The ids that end a continuation: `end_of_text`, and others where a model has several."""

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """One text as ids of type `id_dtype(vocab_size)`.

        Whatever the text spells is text: it never makes a special token, unless `special` allows it.
        """
        ...

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode` of each text, on all cores where that helps."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of some ids. Bytes that are not UTF-8 become U+FFFD."""
        ...

    def spec(self) -> dict[str, Any]:
        """What `from_spec` needs to make this tokenizer again, ready for JSON."""
        ...


class GPT2Tokenizer:
    """The byte pairs of GPT-2 (Radford et al. 2019, section 2.2), from the vocabulary shipped with the package.

    `encode` gives ids as uint16[T]; with `special`, <|endoftext|> in the text is its token. `decode` raises UserError
    on an id that is not in the vocabulary.

    Example:
        >>> from jaxgpt import GPT2Tokenizer
        >>> tokenizer = GPT2Tokenizer()
        >>> tokenizer.encode("Hello world").tolist()
        [15496, 995]
        >>> tokenizer.decode([15496, 995])
        'Hello world'
    """

    name = "gpt2"
    vocab_size = 50257
    end_of_text: int | None = END_OF_TEXT
    stop_tokens: tuple[int, ...] = (END_OF_TEXT,)

    def __init__(self) -> None:
        vocabulary()

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        parts = text.split(ENDOFTEXT) if special else [text]
        ids = [i for part in parts for i in (*_gpt2_ids(part), END_OF_TEXT)]
        return np.array(ids[:-1], np.uint16)

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        with ThreadPoolExecutor() as pool:  # tiktoken lets other threads run meanwhile
            return list(pool.map(self.encode, texts))

    def decode(self, tokens: Iterable[int]) -> str:
        return gpt2_encoding().decode(known_ids(tokens, self.vocab_size))

    def spec(self) -> dict[str, Any]:
        return {"name": self.name}


class CharTokenizer:
    """One id per character, in the order given.

    `encode` gives ids as uint16[T]. Raises UserError where a character is given twice, or `encode` or `decode` meets
    one that was not given.

    Example:
        >>> from jaxgpt import CharTokenizer
        >>> tokenizer = CharTokenizer.from_text("banana")
        >>> tokenizer.characters, tokenizer.encode("nab").tolist()
        ('abn', [2, 0, 1])
    """

    name = "char"
    end_of_text: int | None = None
    stop_tokens: tuple[int, ...] = ()

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters) or not 0 < len(characters) <= 2**16:
            raise UserError(f"characters={characters[:80]!r} has to be 1 to 65536 different ones: see from_text")
        self.characters = characters
        self.vocab_size = len(characters)
        self._ids = {character: i for i, character in enumerate(characters)}

    @classmethod
    def from_text(cls, text: str) -> "CharTokenizer":
        """The tokenizer of the characters that occur in `text`, sorted."""
        return cls("".join(sorted(set(text))))

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        del special  # there is none
        try:
            return np.fromiter((self._ids[character] for character in text), np.uint16, len(text))
        except KeyError as unseen:
            raise UserError(
                f"character {unseen.args[0]!r} is not among the {self.vocab_size} this tokenizer was made from: "
                "take it out of the text, or train with the gpt2 tokenizer, which encodes any text"
            ) from None

    def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join(self.characters[i] for i in known_ids(tokens, self.vocab_size))

    def spec(self) -> dict[str, Any]:
        return {"name": self.name, "characters": self.characters}


def from_spec(spec: dict[str, Any]) -> Tokenizer:
    """The tokenizer whose `spec()` this is."""
    if spec["name"] == GPT2Tokenizer.name:
        return GPT2Tokenizer()
    if spec["name"] == CharTokenizer.name:
        return CharTokenizer(spec["characters"])
    if spec["name"] == "hf":
        from jaxgpt.data.hf_tokenizer import HFTokenizer

        return HFTokenizer(spec["tokenizer_json"], spec["end_of_text"], tuple(spec["stop_tokens"]))
    raise UserError(f"tokenizer {spec['name']!r} is not known: it has to be gpt2, char or hf")


def id_dtype(vocab_size: int) -> type[np.unsignedinteger]:
    """The type of a token id: uint16 wherever the vocabulary fits, as token shards hold it."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def vocabulary() -> bytes:
    """GPT-2's vocabulary file. Raises UserError where it is another."""
    # tiktoken's own loader keeps a copy of what it reads in a cache folder; this file is already on the disk.
    table = (files("jaxgpt.data") / "gpt2.tiktoken").read_bytes()
    if hashlib.sha256(table).hexdigest() != VOCABULARY_SHA256:
        raise UserError(
            "jaxgpt/data/gpt2.tiktoken is not GPT-2's vocabulary (its SHA-256 differs): install jaxgpt again"
        )
    return table


@cache
def gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2's encoding; made once, where a text is first read or written, in about a tenth of a second."""
    pairs = (line.split() for line in vocabulary().splitlines())
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in pairs}
    return tiktoken.Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: END_OF_TEXT}
    )


def known_ids(tokens: Iterable[int], vocab_size: int) -> list[int]:
    """The ids as ints. Raises UserError where one is not below `vocab_size`."""
    ids = [int(token) for token in tokens]
    if unknown := [i for i in ids if not 0 <= i < vocab_size]:
        raise UserError(
            f"token {unknown[0]} is not below vocab_size={vocab_size}: decode with the model's own tokenizer"
        )
    return ids


def _gpt2_ids(text: str) -> list[int]:
    """The ids of a text. Long runs of white space are encoded on their own: tiktoken panics at a million blanks.

    GPT-2's pattern takes a run at the end of a text as one piece, and of a run before a word all but its last blank.
    """
    encode, ids, start = gpt2_encoding().encode_ordinary, [], 0
    for run in LONG_BLANK.finditer(text):
        end = run.end() - (run.end() < len(text))
        ids += encode(text[start : run.start()]) + encode(text[run.start() : end])
        start = end
    return ids + encode(text[start:])
