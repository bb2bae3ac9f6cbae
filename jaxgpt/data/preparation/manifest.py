"""manifest.json: what a folder of token shards holds, and how it can be checked."""

import hashlib
import json
import os
import reprlib
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from jaxgpt.data.preparation.shard_writer import Shard
from jaxgpt.data.token_files import HEADER_BYTES, token_dtype
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError

FORMAT = 1
NAME = "manifest.json"
COUNTS = ("tokens", "bytes", "documents")


def make_manifest(tokenizer: Tokenizer, shards: Iterable[Shard], more: dict[str, Any]) -> dict[str, Any]:
    """What is written as manifest.json; `more` stands beside the rest."""
    files = [asdict(shard) for shard in shards]
    return {
        "jaxgpt_data": FORMAT,
        "tokenizer": tokenizer.spec(),
        "vocab_size": tokenizer.vocab_size,
        "splits": _sums(files),
        **more,
        "source_hash": source_hash(tokenizer.spec(), files),
        "shards": files,
    }


def _sums(files: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The counts of each split, from those of its shards."""
    return {
        split: {what: sum(file[what] for file in files if file["split"] == split) for what in COUNTS}
        for split in ("train", "validation")
    }


def source_hash(tokenizer: dict[str, Any], files: list[dict[str, Any]]) -> str:
    """SHA-256 of the tokenizer and of all files' own: the same tokens in the same order give the same hash."""
    key = [tokenizer, *([file["split"], file["sha256"]] for file in files)]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write a file whole or not at all. Without an indent it is on one line, and written ten times as fast."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        draft.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def is_prepared(folder: Path) -> bool:
    """Whether a folder has a manifest of ours."""
    try:
        return "jaxgpt_data" in _content(folder / NAME)
    except (OSError, ValueError, TypeError):
        return False


def _content(path: Path) -> Any:
    """What a JSON file holds. Raises ValueError where it is no file, not JSON, or nested too deep."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, whose files are there and as long as it says.

    Raises:
        UserError: Something is missing, of another length, or of another format; or the manifest contradicts itself.
    """
    try:
        manifest: dict[str, Any] = _content(folder / NAME)
        written = manifest["jaxgpt_data"]
        _check_fields(manifest)
        width = token_dtype(manifest["vocab_size"]).itemsize
        expected = {str(file["file"]): HEADER_BYTES + width * file["tokens"] for file in manifest["shards"]}
        is_whole = manifest["source_hash"] == source_hash(manifest["tokenizer"], manifest["shards"])
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{folder} does not hold whole token shards ({type(error).__name__}: {error}): prepare the data again"
        ) from None
    if written != FORMAT:
        raise UserError(f"{folder} has format {written}, and this version reads format {FORMAT}")
    if not is_whole:
        raise UserError(f"{folder / NAME} has been changed: its hash is not that of its files; prepare the data again")
    for name, size in expected.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            has = "is missing" if found is None else f"has {found} bytes, not {size}"
            raise UserError(f"{path} {has}: copy it again, or prepare the data again")
    return manifest


def _check_fields(manifest: dict[str, Any]) -> None:
    """Raise ValueError where a field that is read later cannot be."""
    for shard in manifest["shards"]:
        for name in (*COUNTS, "largest"):
            if type(shard[name]) is not int or not 0 <= shard[name] < 2**63:
                raise ValueError(f"{name}={reprlib.repr(shard[name])} is no count")
        if shard["split"] not in ("train", "validation"):
            raise ValueError(f"split={reprlib.repr(shard['split'])} is neither train nor validation")
        path = PurePath(shard["file"])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"file={reprlib.repr(shard['file'])} lies elsewhere")
    if manifest["splits"] != _sums(manifest["shards"]):
        raise ValueError("its splits are not the sums of its shards")


def changed_shards(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """The files whose content is not what the manifest says: all are read."""
    changed = []
    for file in manifest["shards"]:
        with (folder / file["file"]).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file["sha256"]:
                changed.append(file["file"])
    return changed


def check_unchanged(folder: Path, manifest: dict[str, Any]) -> None:
    """Raise UserError where a shard written to after the manifest is no longer what it says.

    Only such shards are read. Where they are as they were, as after copying, the manifest is dated anew, so that the
    next one who asks need not read them.
    """
    written = (folder / NAME).stat().st_mtime_ns
    touched = [file for file in manifest["shards"] if (folder / file["file"]).stat().st_mtime_ns > written]
    if not touched:
        return
    if changed := changed_shards(folder, {"shards": touched}):
        raise UserError(f"{folder} has changed since it was prepared: {', '.join(changed)}; copy or prepare it again")
    with suppress(OSError):
        os.utime(folder / NAME)
