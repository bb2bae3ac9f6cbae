"""A task's files: downloaded once and known by their hash, or taken from a folder of the user's."""

import hashlib
import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder


@dataclass(frozen=True)
class TaskFile:
    """A file as its authors publish it."""

    name: str
    url: str
    sha256: str | None
    """None: no published hash is known, so the file is never downloaded."""
    members: tuple[str, ...] = ()
    """What is read of an archive; in a user's folder these may lie unpacked in its place."""


@dataclass(frozen=True)
class TaskData:
    """The files of one task."""

    files: tuple[TaskFile, ...]
    folder: Path | None = None
    """Where they are. None: the user's cache, filled by download."""

    def check(self) -> None:
        """Fetch what is missing, and raise UserError where a file is not the published one."""
        for file in self.files:
            if self.folder is None:
                _downloaded(file)
            elif not _is_unpacked(file, self.folder):
                _found(file, self.folder)

    def text(self, member: str | None = None, index: int = 0) -> str:
        """A file as text, or the member of it where it is an archive."""
        return _decoded(self.content(member, index), self._name(member, index))

    def jsonl(self, member: str | None = None, index: int = 0) -> list[dict[str, Any]]:
        """A file of one JSON object to a line. Raises UserError where a line is cut off."""
        rows, name = [], self._name(member, index)
        for number, line in enumerate(self.text(member, index).splitlines(), 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"line {number} of {name} is not JSON ({error}): get the file again") from None
        if not rows:
            raise UserError(f"{name} is empty: get the file again")
        return rows

    def content(self, member: str | None = None, index: int = 0) -> bytes:
        """The bytes of a file, or of the archive's member. In a folder the member may lie unpacked."""
        file = self.files[index]
        if self.folder is not None and member in file.members and _is_unpacked(file, self.folder):
            unpacked = self.folder / Path(member).name
            sys.stderr.write(f"{unpacked} is taken as it is: only the hash of {file.name} is published\n")
            return unpacked.read_bytes()
        path = _downloaded(file) if self.folder is None else _found(file, self.folder)
        if member is None:
            return path.read_bytes()
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise UserError(f"{path} has no whole {member} ({error}): get it again from {file.url}") from None

    def _name(self, member: str | None, index: int) -> str:
        return self.files[index].name if member is None else f"{member} in {self.files[index].name}"


def _is_unpacked(file: TaskFile, folder: Path) -> bool:
    members = [folder / Path(member).name for member in file.members]
    return bool(members) and not (folder / file.name).exists() and all(member.is_file() for member in members)


def _found(file: TaskFile, folder: Path) -> Path:
    path = folder / file.name
    if not path.is_file():
        raise UserError(f"the folder {folder} has no {file.name}: get it from {file.url} ({_hash_words(file)})")
    _check(file, path)
    return path


def _downloaded(file: TaskFile) -> Path:
    if file.sha256 is None:
        raise UserError(
            f"{file.name} is not downloaded, since no SHA-256 of it is published: get it from {file.url}, and name its "
            "folder by --task-data"
        )
    import pooch  # a tenth of a second, and needed where a task is

    folder = cache_folder() / "tasks"
    try:
        return Path(pooch.retrieve(file.url, f"sha256:{file.sha256}", fname=file.name, path=folder))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise UserError(
            f"{file.url} could not be downloaded ({error}): get it on another machine ({_hash_words(file)}), and name "
            "its folder by --task-data"
        ) from None


def _check(file: TaskFile, path: Path) -> None:
    if file.sha256 is None:
        return
    with path.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != file.sha256:
        raise UserError(
            f"{path} is not the published file: its SHA-256 is {found}, not {file.sha256}; get it from {file.url}"
        )


def _hash_words(file: TaskFile) -> str:
    return f"SHA-256 {file.sha256}" if file.sha256 else "no hash of it is published"


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 ({error}): get the file again") from None
