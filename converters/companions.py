"""What belongs to a model besides its weights: tokenizer files, special token ids, generation settings."""

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from converters.files import read_json, regular_file
from jaxgpt.errors import UserError

Fields = dict[str, Any]

TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model*",
    "vocab*",
    "*_vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "encoder.json",
    "spiece.model",
    "sentencepiece*.model",
    "spm*.model",
    "*.spm",
    "*.tiktoken",
    "*.codes",
    "dict.txt",
    "emoji.json",
    "normalizer.json",
    "byte_maps.json",
    "word_*.json",
)
"""The files of every tokenizer class of transformers."""
NOT_CARRIED = ("config.json", "generation_config.json", "README.md", "LICENSE*", ".*", "events.out*", "runs", "onnx")
"""What a conversion writes anew, or what is no part of a model."""
WEIGHTS = ("*.safetensors*", "*.bin*", "*.pt", "*.pth", "*.msgpack", "*.h5", "*.gguf", "*.onnx", "*.ot")
GENERATION_FIELDS = (
    "max_length",
    "max_new_tokens",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What older versions of transformers kept in config.json."""


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files in a folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _matches(path, TOKENIZER_FILES) and not path.is_dir())


def copy_tokenizer(source: Path, folder: Path) -> bool:
    """Copy the tokenizer's files of `source`; whether there were any.

    Raises UserError on a file that is a link to elsewhere: it could publish any file of this machine.
    """
    found = tokenizer_files(source)
    for path in found:
        shutil.copyfile(regular_file(_contained(path)), folder / path.name)
    return bool(found)


def left_behind(folder: Path) -> list[str]:
    """The names of what lies in a Hugging Face folder and is neither carried over nor written anew."""
    known = (*TOKENIZER_FILES, *NOT_CARRIED, *WEIGHTS)
    return sorted(path.name for path in folder.iterdir() if not _matches(path, known)) if folder.is_dir() else []


def special_tokens(folder: Path) -> Fields:
    """The special token ids of a Hugging Face folder: those of its config, which may leave out GPT-2's.

    Where there is no config of a model, those that the tokenizer's files name.
    """
    config = _json(folder / "config.json")
    if "model_type" not in config:
        return _named_tokens(folder)
    fields = {name: value for name, value in config.items() if name.endswith("_token_id")}
    return {"bos_token_id": 50256, "eos_token_id": 50256} | fields  # the defaults of all three config classes


def generation_settings(folder: Path) -> Fields:
    """The fields of generation_config.json, or those that an older config.json has of it."""
    if (folder / "generation_config.json").exists():
        return _json(folder / "generation_config.json")
    return {name: value for name, value in _json(folder / "config.json").items() if name in GENERATION_FIELDS}


def _named_tokens(folder: Path) -> Fields:
    config, tokenizer = _json(folder / "tokenizer_config.json"), _json(folder / "tokenizer.json")
    added, model = tokenizer.get("added_tokens"), tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {}
    ids |= {token["content"]: token["id"] for token in added or [] if isinstance(token, dict)}
    found = {}
    for kind in ("bos", "eos", "pad"):
        token = config.get(f"{kind}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content in ids:
            found[f"{kind}_token_id"] = ids[content]
    return found


def _json(path: Path) -> Fields:
    return read_json(_contained(path)) if path.exists() else {}


def _contained(path: Path) -> Path:
    """The path. Raises UserError where it is a link out of its folder; the hub's cache links to its blobs."""
    folder, target = (Path(os.path.realpath(each)) for each in (path.parent, path))  # resolve() raises in a loop
    allowed = [folder, folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [folder]
    if target.parent not in allowed:
        raise UserError(f"{path} is a link to {target}, outside its folder: refused; put a copy of the file there")
    return path


def _matches(path: Path, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(path.name, pattern) for pattern in patterns)
