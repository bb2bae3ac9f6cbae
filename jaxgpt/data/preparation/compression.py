"""Compressed files as streams that say when they are not whole."""

import bz2
import gzip
import io
import lzma
import zlib
from typing import Any, BinaryIO, cast

from jaxgpt.errors import UserError

DAMAGED = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""What reading raises where a file is not whole."""


def open_compressed(path: str) -> BinaryIO:
    """The bytes of a file, decompressed where its suffix says so."""
    if path.endswith(".zst"):
        return cast(BinaryIO, io.BufferedReader(_ZstdFile(path), 1 << 20))
    opener = next((opened for suffix, opened in _OPENERS.items() if path.endswith(suffix)), open)
    return cast(BinaryIO, opener(path, "rb"))


_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


class _ZstdFile(io.RawIOBase):
    """zstandard's own stream takes a file that stops within a frame for a whole one."""

    def __init__(self, path: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise UserError(f"{path} needs zstandard: pip install 'jaxgpt[data]'") from None
        self.zstandard, self.file = zstandard, open(path, "rb")  # noqa: SIM115
        self.frame: Any = None
        self.unread = self.decompressed = b""

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self.decompressed:
            if not (compressed := self.unread or self.file.read(1 << 16)):
                if self.frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self.frame = self.frame or self.zstandard.ZstdDecompressor().decompressobj()
            try:
                self.decompressed = self.frame.decompress(compressed)
            except self.zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            self.unread = self.frame.unused_data
            if self.frame.eof:
                self.frame = None
        count = min(len(buffer), len(self.decompressed))
        buffer[:count], self.decompressed = self.decompressed[:count], self.decompressed[count:]
        return count
