"""Byte pairs of the text that is trained on."""

import dataclasses
import json
import string

import pytest

from jaxgpt.data import from_spec, prepare
from jaxgpt.data import open_data as open_mixture
from jaxgpt.errors import UserError
from jaxgpt.training.config import DataConfig, TrainConfig
from jaxgpt.training.source import open_data

WORDS = ["low", "lower", "lowest", "new", "newer", "newest", "wide", "wider", "widest"]


def text(tmp_path, held_back: str = ""):
    """A text whose last tenth, which is held back, may have words of its own."""
    path = tmp_path / "text.txt"
    train = " ".join(WORDS * 400)
    path.write_text(train + " " + (held_back * 2000)[: len(train) // 10])
    return str(path)


def test_a_text_gets_a_vocabulary_of_its_own_that_spells_it(tmp_path):
    data = prepare(text(tmp_path), "bpe-275", cache=tmp_path / "cache")
    assert data.tokenizer.vocab_size == 275
    assert data.tokenizer.decode(data.train[:40]).startswith("low lower lowest")
    assert data.manifest["splits"]["train"]["bytes"] / len(data.train) > 2  # bytes a token, so pairs are used
    assert from_spec(data.tokenizer.spec()).encode("lowest").tolist() == data.tokenizer.encode("lowest").tolist()


def test_what_is_held_back_has_no_say(tmp_path):
    one = prepare(text(tmp_path), "bpe-270", cache=tmp_path / "one").tokenizer
    other = prepare(text(tmp_path, held_back="zyx"), "bpe-270", cache=tmp_path / "other").tokenizer
    assert one.spec() == other.spec()


def test_it_is_learnt_once_and_again_where_the_file_is_damaged(tmp_path, monkeypatch):
    source, cache = text(tmp_path), tmp_path / "cache"
    first = prepare(source, "bpe-270", cache=cache).tokenizer.spec()
    (kept,) = (cache / "tokenizers").glob("bpe-270-*.json")
    assert json.loads(kept.read_text()) == first
    kept.write_text("{")
    assert prepare(source, "bpe-270", cache=cache).tokenizer.spec() == first


def test_all_sources_of_a_mixture_are_in_the_pairs_of_the_first(tmp_path):
    (tmp_path / "other.txt").write_text("other words and more of them " * 300)
    sources = [text(tmp_path), str(tmp_path / "other.txt")]
    mixed = open_mixture("", "bpe-270", mixture=[f"{source}=0.5" for source in sources], cache=tmp_path / "cache")
    assert mixed.tokenizer.spec() == prepare(sources[0], "bpe-270", cache=tmp_path / "cache").tokenizer.spec()


def test_json_lines_are_learnt_from_without_the_documents_held_back(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"{letter * 3} lower lowest"}) + "\n" for letter in string.ascii_letters)
    )
    data = prepare(str(path), "bpe-262", cache=tmp_path / "cache")
    assert data.tokenizer.vocab_size == 262
    assert data.manifest["splits"]["validation"]["documents"] > 0


def test_a_small_text_gets_the_pairs_that_it_has_and_the_model_follows(tmp_path):
    config = dataclasses.replace(TrainConfig.preset("quickstart"), data=DataConfig(text(tmp_path), "bpe-2048"))
    tokens, config, _ = open_data(None, config)
    assert 257 < tokens.tokenizer.vocab_size < 300
    assert config.model.vocab_size == tokens.tokenizer.vocab_size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bpe-100", "data.tokenizer='bpe-100': vocab_size=100 is below 257"),
        ("bpe-many", "has to be gpt2, char, bpe-N for N byte pairs"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        prepare(text(tmp_path), name, cache=tmp_path / "cache")


def test_tokens_of_another_program_are_no_text_to_learn_from(tmp_path):
    (tmp_path / "train.bin").write_bytes(bytes(2000))
    with pytest.raises(UserError, match="is tokens already, and 'bpe-300' is learnt from text"):
        prepare(str(tmp_path / "train.bin"), "bpe-300", cache=tmp_path / "cache")
