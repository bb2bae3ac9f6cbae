"""GPT-2's byte pairs (Radford et al. 2019, section 2.2) as the files that AutoTokenizer opens.

The shipped vocabulary ranks the pieces; transformers wants the merges as well. The merge that made a piece is the last
pair left of it when only merges of lower rank are applied.
"""

import base64
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 50256


def write_gpt2_tokenizer(folder: Path, context_length: int) -> None:
    """GPT-2's tokenizer as tokenizer.json, and as the vocab.json and merges.txt of older versions."""
    vocab, merges = gpt2_vocabulary()
    _write_json(folder / "tokenizer.json", tokenizer_json(vocab, merges, {END_OF_TEXT: True}))
    _write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    config = {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "model_max_length": context_length}
    _write_json(folder / "tokenizer_config.json", config | special)


@cache
def gpt2_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The ids of all pieces, and the pairs that are merged, in the order of their ranks."""
    table = (files("jaxgpt") / "data" / "gpt2.tiktoken").read_bytes()
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in (line.split() for line in table.splitlines())}
    spelling = byte_spelling()

    def spell(piece: bytes) -> str:
        return "".join(spelling[byte] for byte in piece)

    merges = [(spell(a), spell(b)) for a, b in (last_pair(piece, ranks) for piece in ranks if len(piece) > 1)]
    return {spell(piece): rank for piece, rank in ranks.items()} | {END_OF_TEXT: END_OF_TEXT_ID}, merges


def last_pair(piece: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces whose merge makes `piece`."""
    parts = [bytes([byte]) for byte in piece]
    while len(parts) > 2:
        pairs = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def byte_spelling() -> list[str]:
    """The printable character that stands for each byte: itself where it is printable, U+0100 and on where not."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


def tokenizer_json(vocab: dict[str, int], merges: Sequence[tuple[str, ...]], added: dict[str, bool]) -> dict:
    """The content of a tokenizer.json that splits as GPT-2 does. added: tokens that are not split; whether special."""
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocab[token], "content": token, **whole, "special": special} for token, special in added.items()
        ],
        "normalizer": None,
        "pre_tokenizer": bytes_of,
        "post_processor": bytes_of | {"trim_offsets": False},
        "decoder": bytes_of,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
