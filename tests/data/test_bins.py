import struct

import numpy as np
import pytest

from jaxgpt.data.bins import read_bin, write_bin

TOKENS = np.array([50256, 0, 15496, 995, 65535], np.uint16)


@pytest.mark.parametrize("header", [False, True])
def test_what_is_written_is_read(tmp_path, header):
    write_bin(tmp_path / "a.bin", TOKENS, header)
    np.testing.assert_array_equal(read_bin(tmp_path / "a.bin"), TOKENS)


def test_nanogpts_file_is_bare_uint16(tmp_path):
    write_bin(tmp_path / "a.bin", TOKENS)
    assert (tmp_path / "a.bin").read_bytes() == struct.pack("<5H", *TOKENS)


def test_llm_cs_file_has_256_numbers_before_the_tokens(tmp_path):
    write_bin(tmp_path / "a.bin", TOKENS, header=True)
    content = (tmp_path / "a.bin").read_bytes()
    assert content == struct.pack("<256i", 20240520, 1, 5, *[0] * 253) + struct.pack("<5H", *TOKENS)


@pytest.mark.parametrize("header", [False, True])
def test_a_truncated_file_is_refused(tmp_path, header):
    path = tmp_path / "a.bin"
    write_bin(path, TOKENS, header)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a\.bin.*again"):
        read_bin(path)


@pytest.mark.parametrize("bad", [[-1], [65536]])
def test_tokens_that_do_not_fit_are_refused(tmp_path, bad):
    with pytest.raises(ValueError, match="do not fit uint16"):
        write_bin(tmp_path / "a.bin", np.array(bad))
    assert not (tmp_path / "a.bin").exists()
