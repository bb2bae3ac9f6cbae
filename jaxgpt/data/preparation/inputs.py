"""What there is to read: files, folders, patterns, data sets of the hub, standard input."""

import glob
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxgpt.errors import UserError

TEXT_SUFFIXES = (".md", ".py", ".txt")
LINES_SUFFIXES = (".jsonl", ".ndjson")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
HUB = "hf://datasets/"
STDIN = "-"

Kind = Literal["text", "lines", "parquet", "memory"]
Split = Literal["train", "validation"]


@dataclass(frozen=True)
class Input:
    """One file of documents."""

    path: str
    """As open() takes it, `-`, or hf://datasets/...; """
    name: str
    """As messages and the manifest have it: where the file lies below what was named."""
    kind: Kind
    """text: one document. lines: a JSON object a line. parquet: a row each. memory: `texts`."""
    size: int
    """Bytes on the disk; 0 of standard input."""
    modified: int = 0
    """Nanoseconds, where there is a disk."""
    split: Split | None = None
    """Where its documents go; None: each by its hash."""
    characters: tuple[int, int | None] = (0, None)
    """The part of a text that is read, from and up to which character."""
    alone: bool = False
    """Whether it is the only document of its split: then nothing separates it from others."""
    texts: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Found:
    """Inputs in the order they are read, and what was left out."""

    inputs: tuple[Input, ...]
    left_out: dict[str, int]
    """How many files of each suffix; "" of none."""

    def describe_left_out(self) -> str | None:
        """One line, or None where everything is read."""
        if not self.left_out:
            return None
        counts = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(self.left_out.items()))
        return f"left out: {counts}; text of another suffix is read by --suffix .SUFFIX"


def find(
    named: list[str], suffixes: tuple[str, ...] = (), exclude: Path | None = None, text_only: bool = False
) -> Found:
    """The files that these names stand for, those of a folder sorted by path, none of them opened.

    Hidden files are left out, run folders and prepared data too, and `exclude`. `text_only`: folders give text alone.

    Raises:
        UserError: A name stands for nothing that can be read.
    """
    inputs: list[Input] = []
    left_out: Counter[str] = Counter()
    suffixes = (*TEXT_SUFFIXES, *suffixes)
    for name in named:
        if name == STDIN:
            inputs.append(Input(STDIN, "standard input", "lines", 0))
        elif name.startswith(HUB):
            from jaxgpt.data.preparation.hub import find_parquet

            inputs += find_parquet(name)
        else:
            for path in _paths(name):
                if path.is_dir():
                    inputs += _folder(path, suffixes, exclude, text_only, left_out)
                else:
                    inputs.append(_file(str(path), path.name, _kind(path.name, None) or "text"))
    if not inputs:
        holds = ", ".join([*suffixes, *(() if text_only else (*LINES_SUFFIXES, ".parquet"))])
        raise UserError(
            f"data {' '.join(map(repr, named))} holds no text in {holds} files: "
            "give a text file, or a folder of them"
            + (f"; {Found((), left_out).describe_left_out()}" if left_out else "")
        )
    return Found(tuple(inputs), dict(left_out))


def named_path(name: str) -> Path:
    """The path of data. Raises UserError where none can be called so, such as by a name too long."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:  # the latter of ~somebody who is not there
        shown, reason = name if len(name) <= 80 else f"{name[:77]}...", getattr(error, "strerror", None) or error
        raise UserError(f"data {shown!r} is no path ({reason}): name another") from None
    return path


def _paths(name: str) -> list[Path]:
    path = named_path(name)
    if path.exists():
        return [path]
    matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
    if not matches:
        raise UserError(
            f"data {name!r} does not exist: name a text, .jsonl or .parquet file, a folder, a pattern, "
            f"{HUB}OWNER/NAME, or - for standard input"
        )
    return [Path(match) for match in matches]


def _folder(
    root: Path, suffixes: tuple[str, ...], exclude: Path | None, text_only: bool, left_out: Counter[str]
) -> list[Input]:
    found, below = [], len(os.path.join(root, ""))
    for entry in _walk(str(root), exclude, left_out):
        kind = _kind(entry.name, suffixes)
        if kind is None or (text_only and not entry.name.endswith(suffixes)):
            left_out[Path(entry.name).suffix] += 1
        else:
            found.append(_file(entry.path, entry.path[below:], kind))
    return found


def _walk(root: str, exclude: Path | None, left_out: Counter[str]) -> Iterator["os.DirEntry[str]"]:
    """The files below a folder, sorted by path. They are no Paths, which cost more: there may be millions."""
    stack = _reversed_entries(root)
    while stack:
        entry = stack.pop()
        if entry.name.startswith("."):
            continue
        if not _is_dir(entry):
            yield entry
        elif entry.is_symlink():
            left_out["(linked folder)"] += 1
        elif not _is_ours(Path(entry.path), exclude):
            stack += _reversed_entries(entry.path)


def _is_dir(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that cannot be read
        return False


def _reversed_entries(folder: str) -> list["os.DirEntry[str]"]:
    """The entries of a folder, sorted by name, last first."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): check its permissions") from None


def _is_ours(folder: Path, exclude: Path | None) -> bool:
    """Whether a folder is made by jaxgpt: its own files are not text to train on."""
    if exclude is not None and folder.resolve() == exclude.resolve():
        return True
    for name, mark in (("config.json", "jaxgpt_run"), ("manifest.json", "jaxgpt_data")):
        file = folder / name
        try:
            if file.is_file() and mark in json.loads(file.read_text(encoding="utf-8")):
                return True
        except (OSError, ValueError, TypeError, RecursionError):
            continue
    return False


def _kind(name: str, suffixes: tuple[str, ...] | None) -> Kind | None:
    """How a file is read; None where its suffix is not among these. A file named by itself is text."""
    plain = os.path.splitext(name)[0] if name.endswith(COMPRESSED) else name
    if plain.endswith(LINES_SUFFIXES):
        return "lines"
    if plain.endswith(".parquet"):
        return "parquet"
    return "text" if suffixes is None or plain.endswith(suffixes) else None


def _file(path: str, name: str, kind: Kind) -> Input:
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is not a file on a disk: pipe it into `jaxgpt data prepare - FOLDER`")
    return Input(path, name, kind, status.st_size, status.st_mtime_ns)
