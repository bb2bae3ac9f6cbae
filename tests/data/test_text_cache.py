import gzip
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxgpt.data import CharTokenizer, GPT2Tokenizer, prepare, text_cache
from jaxgpt.data import text as text_module
from jaxgpt.data.corpus import read
from jaxgpt.data.held_back import split_documents
from jaxgpt.data.prepared import open_prepared
from jaxgpt.errors import UserError

TEXT = "".join(f"{i} is the number that comes before {i + 1}.\n" for i in range(300))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(40):
        (tmp_path / "texts" / f"{i:02}.txt").write_text(f"Document {i}. " * (1 + i % 7))
    return str(tmp_path / "texts")


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
def test_the_two_parts_of_a_text_are_the_text(text, tokenizer, tmp_path):
    data = prepare(text, tokenizer, tmp_path)
    assert data.tokenizer.decode(data.train) + data.tokenizer.decode(data.validation) == TEXT


def test_the_end_of_a_text_is_held_back(text, tmp_path):
    data = prepare(text, "char", tmp_path)
    assert len(data.train) == int(0.9 * len(TEXT))


def test_documents_are_whole_and_in_one_part(folder, tmp_path):
    data = prepare(folder, "gpt2", tmp_path)
    parts = [data.tokenizer.decode(part).split("<|endoftext|>")[:-1] for part in (data.train, data.validation)]
    assert sorted(parts[0] + parts[1]) == sorted(f"Document {i}. " * (1 + i % 7) for i in range(40))
    assert not set(parts[0]) & set(parts[1])


def test_about_a_tenth_of_the_bytes_is_held_back():
    documents = [f"{i} " * (50 + i) for i in range(200)]
    train, validation = (sum(map(len, part)) for part in split_documents(documents))
    assert 0.09 < validation / (train + validation) <= 0.1


def test_two_documents_are_one_for_each_part():
    assert split_documents(["long text", "text"]) == (["long text"], ["text"])


def made(cache):
    """The folders of tokens."""
    return [path for path in (cache / "tokens").iterdir() if path.name != "index" and not path.name.startswith(".")]


def test_tokens_are_made_once_and_the_text_is_read_once(text, tmp_path, monkeypatch):
    first = prepare(text, "gpt2", tmp_path)
    monkeypatch.setattr(text_cache, "prepare_shards", None)
    monkeypatch.setattr(text_module, "decoded", None)
    again = prepare(text, "gpt2", tmp_path)
    np.testing.assert_array_equal(first.train, again.train)
    assert isinstance(again.train, np.memmap)


def test_another_text_or_tokenizer_has_other_tokens(text, folder, tmp_path):
    cache = tmp_path / "cache"
    for source, tokenizer in (
        (text, "gpt2"),
        (text, "char"),
        (folder, "char"),
        (text, CharTokenizer.from_text(TEXT + "é")),
    ):
        prepare(source, tokenizer, cache)
    assert len(made(cache)) == 4


def test_a_text_that_changes_under_its_name_is_tokenised_again(text, tmp_path):
    before = len(prepare(text, "gpt2", tmp_path).train)
    (tmp_path / "numbers.txt").write_text(TEXT * 2)
    assert len(prepare(text, "gpt2", tmp_path).train) > 1.9 * before


def test_a_tokenizer_can_be_brought_along(text, tmp_path):
    runs_own = CharTokenizer.from_text("é" + TEXT)
    data = prepare(text, runs_own, tmp_path)
    assert data.tokenizer.spec() == runs_own.spec()
    with pytest.raises(ValueError, match="is not among"):
        prepare(text, CharTokenizer("abc"), tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "broken manifest", "ids", "zeros"])
def test_damaged_tokens_are_made_again(text, tmp_path, damage, caplog):
    first = prepare(text, "gpt2", tmp_path)
    expected = np.array(first.train)
    (folder,) = made(tmp_path)
    shard = folder / "train_000000.bin"
    content = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(content[:-10])
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "broken manifest":
        (folder / "manifest.json").write_text("[]")
    else:  # of equal size
        shard.write_bytes(content[:2000] + {"ids": b"\xff", "zeros": b"\0"}[damage] * 100 + content[2100:])
    with pytest.raises(UserError, match="prepare "):
        open_prepared(folder)
    np.testing.assert_array_equal(prepare(text, "gpt2", tmp_path).train, expected)
    assert "is damaged" in caplog.text


def test_what_cannot_be_prepared_leaves_nothing_behind(text, tmp_path):
    with pytest.raises(UserError, match="is not among"):
        prepare(text, CharTokenizer("abc"), tmp_path)
    assert not made(tmp_path)


def test_leftovers_of_killed_preparations_are_swept_after_a_week(text, tmp_path):
    (tmp_path / "tokens" / ".tmp123" / "whole").mkdir(parents=True)
    (tmp_path / "tokens" / "old-gpt2-123").mkdir()
    (tmp_path / "tokens" / "new-gpt2-123").mkdir()
    for name in (".tmp123", "old-gpt2-123"):
        os.utime(tmp_path / "tokens" / name, (1, 1))
    prepare(text, "gpt2", tmp_path)
    assert sorted(path.name.split("-")[0] for path in made(tmp_path)) == ["new", "numbers.txt"]
    assert not (tmp_path / "tokens" / ".tmp123").exists()


def test_of_several_processes_one_prepares_while_the_others_wait(text, tmp_path, monkeypatch):
    usual, calls = text_cache.prepare_shards, []

    def slow(*arguments, **more):
        calls.append(1)
        time.sleep(0.1)
        return usual(*arguments, **more)

    monkeypatch.setattr(text_cache, "prepare_shards", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(prepare(text, "gpt2", tmp_path).train), range(4)))
    assert len(set(found)) == 1
    assert len(calls) == 1


def test_bytes_per_token_counts_bytes_not_characters(tmp_path):
    (tmp_path / "e.txt").write_text("é" * 100, encoding="utf-8")
    assert prepare(str(tmp_path / "e.txt"), "char", tmp_path).bytes_per_token == 2


def test_the_tokens_are_those_of_the_text_cut_where_it_always_was(text, folder, tmp_path):
    """Version 0.1's tokens, without its code: runs that it began go on with the same batches."""
    encode = GPT2Tokenizer().encode
    single = prepare(text, "gpt2", tmp_path)
    cut = int(len(TEXT) * 0.9)
    np.testing.assert_array_equal(single.train, encode(TEXT[:cut]))
    np.testing.assert_array_equal(single.validation, encode(TEXT[cut:]))
    several = prepare(folder, "gpt2", tmp_path)
    documents = [f"Document {i}. " * (1 + i % 7) for i in range(40)]
    for tokens, part in zip((several.train, several.validation), split_documents(documents), strict=True):
        expected = [token for document in part for token in (*encode(document), 50256)]
        np.testing.assert_array_equal(tokens, expected[:-1] if len(part) == 1 else expected)


def test_the_hash_of_a_text_is_what_it_always_was(tmp_path):
    (tmp_path / "a.txt").write_text("a text " * 9)
    assert prepare(str(tmp_path / "a.txt"), "gpt2", tmp_path).manifest["source_hash"] == (
        hashlib.sha256(hashlib.sha256(b"a text " * 9).digest()).hexdigest()
    )


@pytest.mark.parametrize("source", ["stdlib", "folder"])
def test_files_are_prepared_as_the_same_documents_in_memory(source, folder, tmp_path):
    corpus = read(folder if source == "folder" else "stdlib")
    train, validation = split_documents(corpus.documents)
    data = prepare(folder if source == "folder" else "stdlib", "gpt2", tmp_path)
    assert data.manifest["source_hash"] == corpus.source_hash
    assert data.manifest["splits"]["train"]["documents"] == len(train)
    assert data.manifest["splits"]["validation"]["bytes"] == sum(len(text.encode()) for text in validation)


def test_a_file_of_json_lines_is_its_documents_each_in_one_part(tmp_path):
    documents = [f"Document {i}. " * 9 for i in range(200)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    data = prepare(str(tmp_path / "a.jsonl"), "gpt2", tmp_path)
    parts = [data.tokenizer.decode(part).split("<|endoftext|>")[1:] for part in (data.train, data.validation)]
    assert sorted(parts[0] + parts[1]) == sorted(documents)
    assert 5 < len(parts[1]) < 40
    with pytest.raises(UserError, match="use the gpt2 tokenizer"):
        prepare(str(tmp_path / "a.jsonl"), "char", tmp_path)


def test_a_compressed_text_is_its_text(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    one, other = (prepare(str(tmp_path / name), "gpt2", tmp_path) for name in ("a.txt", "a.txt.gz"))
    np.testing.assert_array_equal(one.train, other.train)
    np.testing.assert_array_equal(one.validation, other.validation)


def test_what_a_folder_holds_beside_text_is_told(folder, tmp_path, caplog):
    (tmp_path / "texts" / "PART1.TXT").write_text("Text. " * 900)
    (tmp_path / "texts" / "data.jsonl").write_text("{}")
    prepare(folder, "gpt2", tmp_path)
    assert "left out: 1 .TXT, 1 .jsonl" in caplog.text


def test_a_text_without_room_for_validation_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="too short"):
        prepare(str(tmp_path / "a.txt"), "gpt2", tmp_path)


def test_an_unknown_tokenizer_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="'bpe'.*gpt2, char, bpe-N for N byte pairs"):
        prepare(text, "bpe", tmp_path)


def test_a_cache_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "text.txt").write_text("Words. " * 100)
    (tmp_path / "cache").touch()
    with pytest.raises(UserError, match="the cache folder .*cache cannot be written .*set JAXGPT_CACHE to another"):
        prepare(str(tmp_path / "text.txt"), "char", tmp_path / "cache")
