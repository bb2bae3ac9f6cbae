import math

import numpy as np
import pytest

from jaxgpt.data import GPT2Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.compare import PIECE, DocumentScores, difference, documents_of, pieces, score_documents
from tests.evaluation.alphabet import TOKENIZER, alphabet_model, logprob


def test_documents_are_scored_by_themselves():
    found = score_documents(alphabet_model(64), TOKENIZER, ["abcd", "zzz", "ab" * 50])
    expected = [-logprob(text[1:], text[0]) for text in ("abcd", "zzz", "ab" * 50)]
    np.testing.assert_allclose(found.nats, expected, rtol=1e-5)
    assert (found.tokens.tolist(), found.bytes.tolist()) == ([3, 2, 99], [4, 3, 100])
    assert found.bits_per_byte.value == pytest.approx(sum(expected) / 107 / math.log(2), rel=1e-5)
    assert found.loss == pytest.approx(sum(expected) / 104, rel=1e-5)


def test_a_paired_difference_has_a_smaller_error_than_the_two_scores():
    hard, rng = np.linspace(100, 900, 40), np.random.default_rng(0)
    sizes = np.full(40, 500)
    one, other = (DocumentScores(hard + rng.normal(size=40), sizes, sizes) for _ in range(2))
    other = other._replace(nats=other.nats + 10)
    found = difference(one, other)
    assert found.value == pytest.approx(10 / 500 / math.log(2), abs=0.002)
    assert found.standard_error < 0.02 * one.bits_per_byte.standard_error
    assert difference(one, one) == (0, 0)


def test_pieces_together_are_the_text_and_end_with_lines():
    text = "A line of words.\n" * 500 + "x" * (3 * PIECE) + " end"
    found = list(pieces(text))
    assert "".join(found) == text
    assert max(map(len, found)) <= PIECE
    assert found[0].endswith("\n")


def test_documents_end_where_the_text_ends():
    tokenizer = GPT2Tokenizer()
    tokens = np.concatenate([tokenizer.encode("One."), [50256], tokenizer.encode("Two."), [50256]])
    assert documents_of(tokens, tokenizer) == ["One.", "Two."]
    assert documents_of(np.tile(tokens, 10), tokenizer, limit=5) == ["One."] * 5
    with pytest.raises(UserError, match="has 1 documents of up to 2000 characters: give a longer one"):
        documents_of(tokens[:2], tokenizer)
