"""A source's own tokenizer, whoever wrote its files, gives the ids that transformers gives."""

import contextlib
import json
import pickle

import numpy as np
import pytest

from jaxgpt.data import CharTokenizer, GPT2Tokenizer, from_spec, prepare
from jaxgpt.data.hf_tokenizer import HFTokenizer, character_json, train_bpe, write_tokenizer
from jaxgpt.data.tokenizer_files import META, as_tokenizer, read_tokenizer
from jaxgpt.errors import UserError

TEXT = "First Citizen:\n\tBefore we proceed — 12345 naïve 🤖's  tokens\r\n"
PLACES = ["<|endoftext|>", "a<|endoftext|>b"]


@pytest.fixture(scope="module")
def own() -> HFTokenizer:
    return train_bpe([TEXT * 20], 300)


@pytest.fixture(scope="module")
def folder(own, tmp_path_factory):
    path = tmp_path_factory.mktemp("bpe")
    write_tokenizer(own, path, context_length=32)
    return path


def auto(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def edit(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields if path.exists() else fields))


def test_a_tokenizer_of_ones_own_is_read_as_it_was_trained(own, folder):
    found = read_tokenizer(folder)
    assert found.encode(TEXT).tolist() == own.encode(TEXT).tolist()
    assert (found.vocab_size, found.end_of_text, found.stop_tokens) == (300, 0, (0,))
    assert found.decode(found.encode(TEXT)) == TEXT
    assert as_tokenizer(str(folder)).spec() == found.spec()


def test_transformers_gives_the_same_ids_and_text(own, folder):
    theirs = auto(folder)
    assert theirs(TEXT)["input_ids"] == own.encode(TEXT).tolist()
    assert theirs.decode(own.encode(TEXT)) == TEXT
    assert (theirs.eos_token_id, theirs.model_max_length) == (0, 32)
    for text in PLACES:
        assert theirs(text)["input_ids"] == own.encode(text, special=True).tolist()


def test_characters_leave_for_transformers(tmp_path):
    characters = CharTokenizer.from_text(TEXT)
    write_tokenizer(characters, tmp_path)
    theirs, read = auto(tmp_path), read_tokenizer(tmp_path)
    expected = characters.encode(TEXT).tolist()
    assert theirs(TEXT)["input_ids"] == read.encode(TEXT).tolist() == expected
    assert theirs.decode(expected) == read.decode(expected) == TEXT
    with pytest.raises(UserError, match="no token for"):
        read.encode("Ω")


def test_special_tokens_are_text_unless_asked_for(own):
    for text in PLACES:
        assert 0 not in own.encode(text)
        assert own.decode(own.encode(text)) == own.decode(own.encode(text, special=True)) == text
        assert own.encode(text, special=True).tolist().count(0) == 1
        assert GPT2Tokenizer().encode(text, special=True).tolist().count(50256) == 1


def test_the_older_files_are_the_same_tokenizer(own, folder, tmp_path):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    for vocab, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        old = tmp_path / vocab.removesuffix(".json")
        old.mkdir()
        (old / vocab).write_text(json.dumps(model["vocab"]))
        (old / merges).write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
        found = read_tokenizer(old)
        assert found.encode(TEXT).tolist() == own.encode(TEXT).tolist()
        assert (found.vocab_size, found.end_of_text) == (300, 0)
        assert found.encode(PLACES[1], special=True).tolist() == own.encode(PLACES[1], special=True).tolist()


def test_gpt2s_own_files_are_read_by_tiktoken(tmp_path):
    from converters.gpt2_tokenizer import write_gpt2_tokenizer

    write_gpt2_tokenizer(tmp_path, 1024)
    assert isinstance(read_tokenizer(tmp_path), GPT2Tokenizer)
    slow = HFTokenizer((tmp_path / "tokenizer.json").read_text())
    assert slow.encode(TEXT).tolist() == GPT2Tokenizer().encode(TEXT).tolist()
    (tmp_path / "tokenizer.json").unlink()
    assert isinstance(read_tokenizer(tmp_path), GPT2Tokenizer)
    changed = json.loads((tmp_path / "vocab.json").read_text())
    changed["a"], changed["b"] = changed["b"], changed["a"]
    (tmp_path / "vocab.json").write_text(json.dumps(changed))
    assert isinstance(read_tokenizer(tmp_path), HFTokenizer)


def test_every_end_that_the_model_names_stops_it(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    found = read_tokenizer(tmp_path)
    assert (found.end_of_text, found.stop_tokens) == (0, (0, 7, 9))
    assert from_spec(json.loads(json.dumps(found.spec()))).stop_tokens == (0, 7, 9)


def test_wordpiece_is_read_through_transformers(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", "##b"]) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert read_tokenizer(tmp_path).encode("a cb").tolist() == [5, 7, 8]
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"vocab.txt is read by transformers.*jaxgpt\[hf\]"):
        read_tokenizer(tmp_path)


def test_nanogpts_characters(tmp_path):
    stoi = {"\n": 0, "b": 1, "a": 2}
    (tmp_path / META).write_bytes(
        pickle.dumps({"vocab_size": 3, "itos": {i: c for c, i in stoi.items()}, "stoi": stoi})
    )
    assert read_tokenizer(tmp_path / "ckpt.pt").encode("ab\n").tolist() == [2, 1, 0]
    (tmp_path / META).write_bytes(pickle.dumps({"itos": np.dtype}))
    with pytest.raises(UserError, match="meta.pkl is not nanoGPT's table"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer.json is no tokenizer"),
        ("[]", "tokenizer.json is no tokenizer"),
        ('{"model": 5}', "tokenizer.json is no tokenizer"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "tokenizer.json.*: this"),
        (character_json("").replace('"<unk>"', '"x"'), "has no tokens"),
    ],
)
def test_a_broken_file_is_named(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_tokenizer(tmp_path)


def test_no_files_no_tokenizer(tmp_path):
    assert read_tokenizer(tmp_path) is None
    with pytest.raises(UserError, match="has to be gpt2, char, bpe-N"):
        as_tokenizer(str(tmp_path))


@pytest.mark.parametrize(("size", "message"), [(256, "256 bytes and"), (5000, "pairs for .* only")])
def test_a_vocabulary_that_cannot_be_trained(size, message):
    with pytest.raises(UserError, match=message):
        train_bpe([TEXT], size)


def test_a_corpus_is_tokenised_by_the_tokenizer_of_a_folder(own, folder, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT * 20)
    data = prepare(str(tmp_path / "text.txt"), str(folder), tmp_path / "cache")
    assert data.tokenizer.spec() == read_tokenizer(folder).spec()
    np.testing.assert_array_equal(np.concatenate([data.train, data.validation])[:100], own.encode(TEXT * 20)[:100])


@pytest.mark.parametrize(
    "value", [None, True, 5, -1, 0.5, "x", [], [1], {}, {"x": 1}, {"content": []}, {"1": {"content": 3}}], ids=str
)
def test_any_field_of_its_files_may_hold_anything(tmp_path, value):
    """One message or a tokenizer, never a traceback."""
    pairs = {"vocab.json": json.dumps({"a": 0, "b": 1, "ab": 2, "x": 3}), "merges.txt": "a b\n"}
    fields = ("tokenizer_class", "added_tokens_decoder", "eos_token", "unk_token")
    for file, names in {
        "tokenizer_config.json": fields,
        "config.json": ("eos_token_id",),
        "added_tokens.json": ("x",),
    }.items():
        for name in names:
            folder = tmp_path / f"{file}-{name}"
            folder.mkdir()
            for one, content in (pairs | {file: json.dumps({name: value})}).items():
                (folder / one).write_text(content)
            with contextlib.suppress(UserError):
                assert read_tokenizer(folder).vocab_size >= 4


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"[" * 100_000, b"5", b"{}"], ids=["bytes", "deep", "number", "empty"]
)
def test_a_tokenizer_file_that_is_none_is_one_message(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match="tokenizer"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_file_of_many_gigabytes_is_not_read(tmp_path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(50 * 10**9)
    with pytest.raises(UserError, match="has 50,000,000,000 bytes"):
        read_tokenizer(tmp_path)
