"""Files of token ids, ours and other programs': nanoGPT's without a header, llm.c's and NeMo's with one."""

from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from jaxgpt.data.tokenizer import id_dtype
from jaxgpt.errors import UserError

HEADER_BYTES = 1024
"""256 int32: magic, version, count of tokens, and in NeMo's the bytes of a token."""
UINT16, UINT32, NEMO = 20240520, 20240801, 278895051
"""Magic numbers: llm.c for GPT-2 (which modded-nanogpt reads too), llm.c for Llama 3, NeMo AutoModel."""
VERSIONS = {UINT16: 1, UINT32: 7, NEMO: 1}
MOST_TOKENS = 2**31 - 1
"""Of a file: the header counts in int32."""


@dataclass(frozen=True)
class TokenFile:
    """What the header of a token file says; nothing else is read."""

    path: Path
    tokens: int
    dtype: np.dtype
    offset: int
    """Bytes before the first token."""

    def map(self) -> np.ndarray:
        """The tokens, memory-mapped."""
        return np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,))


def open_token_file(path: Path) -> TokenFile:
    """A token file of any known program.

    Raises:
        UserError: It is empty, or shorter or longer than its header says.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file of tokens: name one, or copy it again")
    size = path.stat().st_size
    header = [int(field) for field in np.fromfile(path, "<i4", 4)]
    if len(header) < 4 or header[0] not in VERSIONS or size < HEADER_BYTES:
        if size == 0 or size % 2:
            raise UserError(f"{path} has {size} bytes, which is not a number of uint16 tokens: copy or make it again")
        return TokenFile(path, size // 2, np.dtype("<u2"), 0)
    magic, version, tokens, item = header
    width = {UINT16: 2, UINT32: 4, NEMO: item}[magic]
    if version != VERSIONS[magic] or width not in (2, 4):
        raise UserError(
            f"{path} is of version {version} (magic {magic}), and {VERSIONS[magic]} is known: make it again"
        )
    if size != HEADER_BYTES + width * tokens:
        raise UserError(
            f"{path} has {size} bytes, and its header says {tokens} tokens, which are {HEADER_BYTES + width * tokens}: "
            "copy or make it again"
        )
    return TokenFile(path, tokens, np.dtype(f"<u{width}"), HEADER_BYTES)


def write_header(file: IO[bytes], tokens: int, dtype: np.dtype) -> None:
    """llm.c's header for so many tokens, at the beginning of the file."""
    magic = UINT16 if dtype.itemsize == 2 else UINT32
    fields = np.zeros(HEADER_BYTES // 4, "<i4")
    fields[:3] = magic, VERSIONS[magic], tokens
    file.seek(0)
    file.write(fields.tobytes())


def token_dtype(vocab_size: int) -> np.dtype:
    """The type of the ids in a file: uint16 wherever the vocabulary fits."""
    return np.dtype(id_dtype(vocab_size)).newbyteorder("<")
