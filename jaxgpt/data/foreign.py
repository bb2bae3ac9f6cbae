"""Token files that other programs prepared: nanoGPT's, llm.c's, modded-nanogpt's, NeMo's."""

import glob
import hashlib
import json
from pathlib import Path

import numpy as np

from jaxgpt.data.learned import learned_size
from jaxgpt.data.preparation.manifest import write_json
from jaxgpt.data.token_files import TokenFile, open_token_file
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.data.tokenizer_files import as_tokenizer, read_tokenizer
from jaxgpt.data.tokens import TokenData, join_tokens, largest_token
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder

META = "meta.pkl"
SAMPLED = 64
"""Places of a file that its fingerprint covers, of 64 KB each."""


def is_foreign(source: str) -> bool:
    """Whether a source is token files without a manifest of ours: a .bin, a pattern of them, or a folder of them."""
    path = Path(source).expanduser()
    if path.is_dir():
        return any(path.glob("*train*.bin"))
    return source.endswith(".bin") and (path.is_file() or glob.has_magic(source))


def open_foreign(source: str, tokenizer: str | Tokenizer, cache: Path | None = None) -> TokenData:
    """The tokens of a folder with `*train*.bin` and `*val*.bin`, of a pattern of such files, or of one file.

    The tokenizer is that of meta.pkl where nanoGPT's characters lie beside the files, and otherwise the one given.

    Raises:
        UserError: There is nothing to train on, a file is not whole, or a token is beyond the vocabulary.
    """
    train, validation = _names(source)
    if not train:
        raise UserError(f"data {source!r} has no token files: name a folder of *train*.bin, or a pattern of files")
    meta = train[0].parent / META
    own = read_tokenizer(meta) if meta.is_file() else None
    if not isinstance(tokenizer, str):
        chosen = tokenizer
        if own is not None and own.spec() != tokenizer.spec():
            raise UserError(
                f"the characters of {meta} are not those of the {tokenizer.name} tokenizer: name its own data"
            )
    elif tokenizer == "char" and own is None:
        raise UserError(f"data {source!r} has no meta.pkl, which tells the characters: put nanoGPT's beside the files")
    elif learned_size(tokenizer) is not None and own is None:
        raise UserError(
            f"data {source!r} is tokens already, and {tokenizer!r} is learnt from text: name the tokenizer that they "
            "were made with, such as --data.tokenizer gpt2"
        )
    else:
        chosen = own or as_tokenizer(tokenizer)
    parts = {
        "train": [open_token_file(path) for path in train],
        "validation": [open_token_file(path) for path in validation],
    }
    files = [file for part in parts.values() for file in part]
    _check_vocabulary(files, chosen, cache or cache_folder())
    manifest = {
        "source": source,
        "tokenizer": chosen.spec(),
        "splits": {
            split: {"tokens": sum(file.tokens for file in part), "bytes": None, "documents": None}
            for split, part in parts.items()
        },
        "files": {file.path.name: fingerprint(file.path) for file in files},
    }
    manifest["source_hash"] = hashlib.sha256(json.dumps(manifest["files"]).encode()).hexdigest()
    maps = {split: join_tokens([file.map() for file in part] or [np.zeros(0, "<u2")]) for split, part in parts.items()}
    return TokenData(maps["train"], maps["validation"], chosen, manifest)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and of places spread over it: other data are noticed without reading all."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLED):
            file.seek(number * max(0, size - (1 << 16)) // (SAMPLED - 1))
            digest.update(file.read(1 << 16))
    return digest.hexdigest()


def _names(source: str) -> tuple[list[Path], list[Path]]:
    """The files for training and for validation."""
    path = Path(source).expanduser()
    if path.is_dir():
        train, validation = (sorted(path.glob(f"*{word}*.bin")) for word in ("train", "val"))
        prefixes = sorted({name.name.partition("train")[0] for name in train})
        if len(prefixes) > 1:
            raise UserError(
                f"{source} holds several data sets ({', '.join(prefixes)}): name one by a pattern in quotes, such as "
                f"'{path / prefixes[-1]}train*.bin'"
            )
        return train, validation
    if path.is_file():
        return [path], []
    train = [Path(name) for name in sorted(glob.glob(str(path)))]
    head, found, tail = path.name.rpartition("train")
    validation = sorted(path.parent.glob(f"{head}val{tail}")) if found else []
    return train, validation


def _check_vocabulary(files: list[TokenFile], tokenizer: Tokenizer, cache: Path) -> None:
    """Raise UserError where an id is beyond the vocabulary. All files are read, each once: its largest id is kept."""
    record = cache / "largest-tokens.json"
    try:
        known: dict[str, list[int]] = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    before = dict(known)
    for file in files:
        status = file.path.stat()
        key, stamp = str(file.path.resolve()), [status.st_size, status.st_mtime_ns]
        if known.get(key, [])[:2] != stamp:
            known[key] = [*stamp, largest_token(file.map())]
        if (largest := known[key][2]) >= tokenizer.vocab_size:
            raise UserError(
                f"{file.path} holds token {largest}, and the {tokenizer.name} tokenizer has {tokenizer.vocab_size}: "
                "name the tokenizer that it was made with by --data.tokenizer"
            )
    if known != before:
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, known)
