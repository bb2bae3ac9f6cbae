import struct

import numpy as np
import pytest

from jaxgpt.data.token_files import open_token_file, token_dtype, write_header
from jaxgpt.errors import UserError

TOKENS = np.array([50256, 0, 15496, 995, 65535], np.uint16)


def write(path, magic: int | None, tokens=TOKENS, version=1, width=0):
    header = b"" if magic is None else struct.pack("<256i", magic, version, len(tokens), width, *[0] * 252)
    path.write_bytes(header + tokens.tobytes())
    return path


@pytest.mark.parametrize(
    ("magic", "version", "width", "dtype"),
    [
        (None, 0, 0, np.uint16),
        (20240520, 1, 0, np.uint16),
        (20240801, 7, 0, np.uint32),
        (278895051, 1, 2, np.uint16),
        (278895051, 1, 4, np.uint32),
    ],
)
def test_token_files_of_other_programs_are_read(tmp_path, magic, version, width, dtype):
    tokens = TOKENS.astype(dtype)
    found = open_token_file(write(tmp_path / "a.bin", magic, tokens, version, width))
    assert (found.tokens, found.dtype) == (5, dtype)
    np.testing.assert_array_equal(found.map(), tokens)


def test_llm_cs_header_has_256_numbers_before_the_tokens(tmp_path):
    with (tmp_path / "a.bin").open("wb") as file:
        write_header(file, 5, token_dtype(50257))
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<256i", 20240520, 1, 5, *[0] * 253)
    with (tmp_path / "a.bin").open("wb") as file:
        write_header(file, 5, token_dtype(2**16 + 1))
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<256i", 20240801, 7, 5, *[0] * 253)


def test_a_file_of_more_than_2_to_the_30_tokens_is_read(tmp_path):
    count = 2**30 + 5
    with (tmp_path / "a.bin").open("wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, count, *[0] * 253))
        file.truncate(1024 + 2 * count)
    assert len(open_token_file(tmp_path / "a.bin").map()) == count


@pytest.mark.parametrize("magic", [None, 20240520])
def test_a_truncated_file_is_refused(tmp_path, magic):
    path = write(tmp_path / "a.bin", magic)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"a\.bin has \d+ bytes.*again"):
        open_token_file(path)


@pytest.mark.parametrize(("magic", "version", "width"), [(20240520, 2, 0), (278895051, 1, 8)])
def test_a_version_that_is_not_known_is_refused(tmp_path, magic, version, width):
    with pytest.raises(UserError, match=f"of version {version}"):
        open_token_file(write(tmp_path / "a.bin", magic, version=version, width=width))


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a file of tokens"):
        open_token_file(tmp_path)
