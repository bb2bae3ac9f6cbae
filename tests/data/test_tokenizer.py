import hashlib
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.data import CharTokenizer, GPT2Tokenizer, from_spec
from jaxgpt.data.tokenizer import gpt2_encoding

TEXT = "First Citizen:\n\tBefore we proceed — 12345 naïve 🤖's  tokens"


def test_the_shipped_vocabulary_is_openais():
    table = (files("jaxgpt.data") / "gpt2.tiktoken").read_bytes()
    assert hashlib.sha256(table).hexdigest() == "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"


def test_another_vocabulary_is_refused(monkeypatch):
    monkeypatch.setattr("jaxgpt.data.tokenizer.VOCABULARY_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="install jaxgpt again"):
        gpt2_encoding.__wrapped__()
    with pytest.raises(ValueError, match="install jaxgpt again"):
        GPT2Tokenizer()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_gpt2_decodes_what_it_encodes(text):
    tokenizer = GPT2Tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_gpt2_gives_the_published_ids():
    assert GPT2Tokenizer().encode("Hello world").tolist() == [15496, 995]


def test_gpt2_agrees_with_the_transformers_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    encoding = gpt2_encoding()
    shown = _shown_bytes()
    pieces = [encoding.decode_single_token_bytes(i) for i in range(50256)]
    vocabulary = {"".join(shown[byte] for byte in piece): i for i, piece in enumerate(pieces)}
    known = set(pieces)
    merges = [_parents(piece, encoding, known) for piece in pieces if len(piece) > 1]
    model = tokenizers.models.BPE(vocabulary, [tuple("".join(shown[b] for b in side) for side in m) for m in merges])
    oracle = tokenizers.Tokenizer(model)
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert GPT2Tokenizer().encode(TEXT).tolist() == oracle.encode(TEXT).ids


def _shown_bytes() -> list[str]:
    """GPT-2's printable character for each byte, as HF vocabularies spell them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + hidden.index(byte)) for byte in range(256)]


def _parents(piece: bytes, encoding, known: set[bytes]) -> tuple[bytes, bytes]:
    """The two tokens whose merge made this one: what its bytes come to by the merges of lower rank."""
    rank = encoding.encode_single_token(piece)
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        pairs = [a + b for a, b in pairwise(parts)]
        ranks = [encoding.encode_single_token(p) if p in known else rank for p in pairs]
        i = ranks.index(min(ranks))
        parts[i : i + 2] = [pairs[i]]
    return parts[0], parts[1]


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer(), CharTokenizer.from_text(TEXT)])
def test_ids_are_uint16_below_the_vocabulary_size(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert ids.dtype == np.uint16
    assert ids.max() < tokenizer.vocab_size


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer(), CharTokenizer.from_text(TEXT)])
def test_a_tokenizer_made_from_its_spec_is_the_same(tokenizer):
    again = from_spec(tokenizer.spec())
    np.testing.assert_array_equal(again.encode(TEXT), tokenizer.encode(TEXT))
    assert (again.name, again.vocab_size, again.end_of_text) == (
        tokenizer.name,
        tokenizer.vocab_size,
        tokenizer.end_of_text,
    )


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer(), CharTokenizer.from_text(TEXT)])
def test_encoding_together_is_encoding_one_by_one(tokenizer):
    texts = [TEXT, "", TEXT[3:9]]
    for together, alone in zip(tokenizer.encode_all(texts), map(tokenizer.encode, texts), strict=True):
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("after", ["x", "", "\n"])
def test_a_million_blanks_are_encoded_as_the_few_are(after):
    tokenizer = GPT2Tokenizer()
    blanks = " \t" * 500_000
    assert tokenizer.decode(tokenizer.encode(f"a{blanks}{after}")) == f"a{blanks}{after}"
    for few in (9_999, 10_000, 10_001):
        text = "a" + " " * few + after + "\n" * 10_001 + "b c"
        assert tokenizer.encode(text).tolist() == gpt2_encoding().encode_ordinary(text)


def test_text_never_makes_the_end_of_text():
    tokenizer = GPT2Tokenizer()
    ids = tokenizer.encode("a<|endoftext|>b")
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == "a<|endoftext|>b"
    assert tokenizer.decode([tokenizer.end_of_text]) == "<|endoftext|>"


def test_an_unseen_character_is_named():
    with pytest.raises(ValueError, match=r"'é'.*gpt2"):
        CharTokenizer.from_text("abc").encode("abécé")


@pytest.mark.parametrize("tokenizer", [GPT2Tokenizer(), CharTokenizer.from_text(TEXT)])
@pytest.mark.parametrize("token", [-1, 50257])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, token):
    with pytest.raises(ValueError, match=f"token {token} is not below"):
        tokenizer.decode([0, token])


@pytest.mark.parametrize("characters", ["", "aba"])
def test_characters_have_to_be_different_and_some(characters):
    with pytest.raises(ValueError, match="different"):
        CharTokenizer(characters)


def test_a_foreign_spec_is_refused():
    with pytest.raises(ValueError, match="'llama'.*gpt2, char or hf"):
        from_spec({"name": "llama"})
