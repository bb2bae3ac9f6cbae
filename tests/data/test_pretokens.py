import re

import numpy as np
import pytest
import tiktoken
from hypothesis import example, given
from hypothesis import strategies as st

from jaxgpt.data.pretokens import WHITE_SPACE, pieces
from jaxgpt.data.tokenizer import gpt2_encoding

WORDS = st.sampled_from(
    [*"ab1²' \n\t\u3000\xa0\x1c.,…éж中。", "'s", "'ll", "don't", "  ", " \n ", "x" * 9, "١٢", "e\u0301"]
)
TEXTS = st.lists(WORDS, max_size=40).map("".join)


@given(TEXTS, st.integers(2, 12))
@example("a  b", 2)
@example("'s\u3000'sa", 4)
def test_tokens_of_the_pieces_are_tokens_of_the_text_unless_a_word_is_longer_than_a_piece(text, length):
    encoding = gpt2_encoding()
    found = list(pieces([text], length))
    assert "".join(found) == text
    blank = "".join(WHITE_SPACE)
    words = re.findall(f"[{blank}]*[^{blank}]+|[{blank}]+", text)
    if all(len(word) <= length for word in words):
        assert [i for piece in found for i in encoding.encode_ordinary(piece)] == encoding.encode_ordinary(text)


@given(TEXTS, st.integers(2, 12), st.integers(1, 7))
def test_where_a_text_is_cut_does_not_depend_on_how_it_is_read(text, length, chunk):
    chunks = [text[i : i + chunk] for i in range(0, len(text), chunk)]
    assert list(pieces(chunks, length)) == list(pieces([text], length))


@given(TEXTS, st.integers(2, 12))
def test_no_piece_is_longer_than_asked(text, length):
    assert all(0 < len(piece) <= length + 1 for piece in pieces([text], length))


@pytest.mark.parametrize("text", ["x" * 50, "中" * 50, " " * 50 + "x"])
def test_a_word_longer_than_a_piece_is_cut_inside(text):
    assert [len(piece) for piece in pieces([text], 20)][:2] == [20, 20]


def test_text_without_blanks_is_cut_at_punctuation():
    assert list(pieces(["中文很长。" * 3], 7)) == ["中文很长", "。中文很长", "。中文很长。"]


def test_a_million_blanks_become_tokens():
    tokens = [gpt2_encoding().encode_ordinary(piece) for piece in pieces([" " * 1_000_000 + "x"])]
    assert gpt2_encoding().decode(np.concatenate(tokens).tolist()) == " " * 1_000_000 + "x"
    assert isinstance(gpt2_encoding(), tiktoken.Encoding)
