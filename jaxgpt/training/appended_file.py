"""Files that grow by whole records, whatever a disk does."""

import os
from pathlib import Path

MAX_PENDING_BYTES = 2**24
OPEN_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
"""The last: a pipe that nobody reads is an OSError, and not waited for."""


class AppendedFile:
    """A file of whole records: one that cannot be written now is written with the next."""

    def __init__(self, path: Path) -> None:
        self._path, self._pending, self._file = path, b"", -1

    def append(self, record: bytes) -> None:
        if len(self._pending) < MAX_PENDING_BYTES:
            self._pending += record
        self.flush()

    def flush(self) -> None:
        if self._file < 0:
            self._file = os.open(self._path, OPEN_FLAGS, 0o666)
        size, written = os.fstat(self._file).st_size, 0
        try:
            while written < len(self._pending):
                written += os.write(self._file, self._pending[written:])
        except OSError:
            os.ftruncate(self._file, size)  # a part of a record would spoil what follows
            raise
        self._pending = b""

    def close(self) -> None:
        try:
            if self._pending:
                self.flush()
        finally:
            if self._file >= 0:
                os.close(self._file)
