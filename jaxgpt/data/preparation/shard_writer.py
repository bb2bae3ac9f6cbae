"""The shards of one split, written one after another; each appears by renaming when it is whole."""

import errno
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxgpt.data.preparation.tokenise import Part
from jaxgpt.data.token_files import HEADER_BYTES, write_header
from jaxgpt.errors import UserError

FILE_NAMES = {"train": "train_{:06d}.bin", "validation": "val_{:06d}.bin"}


@dataclass
class Shard:
    """What the manifest says of a file. A document counts where it begins."""

    file: str
    split: str
    tokens: int = 0
    bytes: int = 0
    documents: int = 0
    largest: int = 0
    """The largest token id."""
    begins: list[Any] | None = None
    """Name of the input file, and number of the line, row or character, of the document of the first token."""
    ends: list[Any] | None = None
    """Of the document of the last token."""
    sha256: str = ""


@dataclass
class Written:
    """How far a split has come."""

    whole: list[Shard] = field(default_factory=list)
    open: Shard | None = None


class ShardWriter:
    """Writes one split. What `written` says is on the disk after `flush`, whatever happens then."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int, written: Written) -> None:
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.written = written
        self.publish()
        self.file: io.FileIO | None = None
        if written.open is not None:
            self.file = self._part(written.open).open("r+b", buffering=0)
            self.file.truncate(HEADER_BYTES + dtype.itemsize * written.open.tokens)
            self.file.seek(0, os.SEEK_END)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.file is not None:
            self.file.close()

    def add(self, part: Part, names: Sequence[str], begins: bool = True) -> None:
        """Write the documents of a part; `begins`: whether the first of them begins here."""
        starts = np.concatenate([[0], np.cumsum(part.counts)])
        at = 0
        while at < len(part.tokens):
            shard, file = self._open_shard()
            count = min(self.shard_tokens - shard.tokens, len(part.tokens) - at)
            tokens = part.tokens[at : at + count]
            with enough_room(self.folder):
                file.write(tokens.tobytes())
            inside = slice(*np.searchsorted(starts[:-1], [at, at + count]))
            first, last = np.searchsorted(starts, [at, at + count - 1], "right") - 1
            shard.begins = shard.begins or _named(part.places[first], names)
            shard.ends = _named(part.places[last], names)
            shard.documents += int(inside.stop - inside.start) - (at == 0 and not begins)
            shard.bytes += int(part.bytes[inside].sum())
            shard.tokens += count
            shard.largest = max(shard.largest, int(tokens.max()))
            at += count
            if shard.tokens == self.shard_tokens:
                self._finish()

    def flush(self) -> None:
        """Have the disk hold what is written."""
        if self.file is not None:
            with enough_room(self.folder):
                os.fsync(self.file.fileno())

    def finish(self) -> None:
        """The last shard is whole, however long it is."""
        if self.written.open is not None:
            self._finish()

    def publish(self) -> None:
        """Give whole shards their names: once `written` is on the disk, so that it never says less than there is."""
        for shard in self.written.whole:
            part, whole = self._part(shard), self.folder / shard.file
            if part.exists():
                part.replace(whole)
            elif not whole.exists():
                raise UserError(f"{whole} is missing: bring it back, or prepare into another folder")

    def _open_shard(self) -> tuple[Shard, io.FileIO]:
        if self.written.open is None or self.file is None:
            self.written.open = Shard(FILE_NAMES[self.split].format(len(self.written.whole)), self.split)
            with enough_room(self.folder):
                self.file = self._part(self.written.open).open("w+b", buffering=0)
                self.file.write(bytes(HEADER_BYTES))
        return self.written.open, self.file

    def _finish(self) -> None:
        shard, file = self._open_shard()
        with enough_room(self.folder):
            write_header(file, shard.tokens, self.dtype)
            file.seek(0)
            shard.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
            file.close()
        self.written.whole.append(shard)
        self.written.open = self.file = None

    def _part(self, shard: Shard) -> Path:
        return self.folder / f".{shard.file}.part"


def _named(place: np.ndarray, names: Sequence[str]) -> list[Any]:
    file, at = place.tolist()
    return [names[file], at]


@contextmanager
def enough_room(folder: Path) -> Iterator[None]:
    """A full disk becomes a UserError with the cure."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{folder} cannot hold more ({error.strerror}): make room, then run the same command again; "
            "it goes on from here"
        ) from None
