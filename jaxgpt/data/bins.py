"""Token files of other programs: nanoGPT's bare uint16, and llm.c's with a header."""

from pathlib import Path

import numpy as np

# llm.c, dev/data/data_common.py: 256 int32 of header (magic, version, count of tokens), then uint16 tokens.
HEADER_BYTES = 1024
MAGIC, VERSION = 20240520, 1


def read_bin(path: Path) -> np.ndarray:
    """The tokens of a `.bin` file of nanoGPT or llm.c, memory-mapped as uint16."""
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3)
    if len(header) == 3 and header[0] == MAGIC:
        if header[1] != VERSION or size != HEADER_BYTES + 2 * header[2]:
            raise ValueError(f"{path} is not a whole llm.c token file of version {VERSION}: copy or make it again")
        return np.memmap(path, "<u2", "r", offset=HEADER_BYTES)
    if size == 0 or size % 2:
        raise ValueError(f"{path} has {size} bytes, which is not a number of uint16 tokens: copy or make it again")
    return np.memmap(path, "<u2", "r")


def write_bin(path: Path, tokens: np.ndarray, header: bool = False) -> None:
    """Write uint16 tokens as nanoGPT reads them, or with the header that llm.c reads."""
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < 2**16:
        raise ValueError(
            f"tokens from {tokens.min()} to {tokens.max()} do not fit uint16: use a vocabulary below 65536"
        )
    with path.open("wb") as file:
        if header:
            fields = np.zeros(HEADER_BYTES // 4, "<i4")
            fields[:3] = MAGIC, VERSION, len(tokens)
            file.write(fields.tobytes())
        file.write(np.asarray(tokens, "<u2").tobytes())
