"""Folders that appear whole or not at all, and leave nothing behind when the process is killed."""

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jaxgpt.errors import UserError


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """A draft to write into; it takes the name `folder` at the end, and is removed where anything fails.

    Drafts of the same folder that killed processes left behind are removed. Raises UserError where `folder` exists
    and is not empty, or cannot be made.
    """
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; choose another, or remove it")
    folder = Path(os.path.realpath(folder))  # a link stays one: the folder that it names is written
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = stack.enter_context(locked_dir(folder.parent, f".{folder.name}.", ".partial"))
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}); name another folder") from None
        yield draft
        draft.replace(folder)


@contextmanager
def locked_dir(parent: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """A new folder in `parent`, locked while it is in use, and removed at the end where it still exists.

    Folders of that prefix and suffix which no living process has locked are removed first. The name is random: two
    containers that share a disk may have the same process ids.
    """
    for leftover in parent.glob(f"{_literal(prefix)}*{_literal(suffix)}"):
        _remove_unless_locked(leftover)
    draft = parent / f"{prefix}{uuid.uuid4().hex}{suffix}"
    draft.mkdir()
    lock = _try_lock(draft)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_unless_locked(folder: Path) -> None:
    if (lock := _try_lock(folder)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _try_lock(folder: Path) -> int | None:
    """A lock on the folder, which ends with the process. None: another has it, or the file system has no locks."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    return opened


def _literal(text: str) -> str:
    """The text as a glob pattern that matches it alone."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in text)
