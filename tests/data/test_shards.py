import numpy as np
import pytest

from jaxgpt.data import CharTokenizer, GPT2Tokenizer, prepare, shards
from jaxgpt.data.shards import load, split

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
    train, validation = (sum(map(len, part)) for part in split(documents))
    assert 0.09 < validation / (train + validation) <= 0.1


def test_two_documents_are_one_for_each_part():
    assert split(["long text", "text"]) == (["long text"], ["text"])


def test_tokens_are_made_once(text, tmp_path, monkeypatch):
    first = prepare(text, "gpt2", tmp_path)
    monkeypatch.setattr(shards, "_write", None)
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
    assert len(list((cache / "tokens").iterdir())) == 4


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


@pytest.mark.parametrize("damage", ["truncated", "no manifest", "broken manifest"])
def test_damaged_tokens_are_made_again(text, tmp_path, damage, caplog):
    first = prepare(text, "gpt2", tmp_path)
    expected = np.array(first.train)
    (folder,) = (tmp_path / "tokens").iterdir()
    if damage == "truncated":
        with (folder / "train.bin").open("r+b") as file:
            file.truncate(10)
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        (folder / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match="prepare the data again"):
        load(folder)
    np.testing.assert_array_equal(prepare(text, "gpt2", tmp_path).train, expected)
    assert "is damaged" in caplog.text


def test_a_failure_leaves_nothing_behind(text, tmp_path, monkeypatch):
    monkeypatch.setattr(shards.json, "dumps", lambda *a, **k: "key" if k.get("sort_keys") else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare(text, "gpt2", tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_who_loses_the_race_reads_the_winners_tokens(text, tmp_path, monkeypatch):
    write = shards._write
    monkeypatch.setattr(shards, "_write", lambda *arguments: (write(*arguments), write(*arguments)))
    assert len(prepare(text, "gpt2", tmp_path).train)


def test_bytes_per_token_counts_bytes_not_characters(tmp_path):
    (tmp_path / "e.txt").write_text("é" * 100, encoding="utf-8")
    assert prepare(str(tmp_path / "e.txt"), "char", tmp_path).bytes_per_token == 2


def test_shards_are_little_endian_uint16(text, tmp_path):
    data = prepare(text, "gpt2", tmp_path)
    (folder,) = (tmp_path / "tokens").iterdir()
    raw = (folder / "validation.bin").read_bytes()
    assert [int.from_bytes(raw[i : i + 2], "little") for i in range(0, 20, 2)] == data.validation[:10].tolist()
    np.testing.assert_array_equal(np.concatenate([data.train, data.validation])[:5], GPT2Tokenizer().encode(TEXT)[:5])


def test_a_text_without_room_for_validation_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(ValueError, match="too short"):
        prepare(str(tmp_path / "a.txt"), "gpt2", tmp_path)


def test_an_unknown_tokenizer_is_refused(text, tmp_path):
    with pytest.raises(ValueError, match="'bpe'.*gpt2, char, or a folder"):
        prepare(text, "bpe", tmp_path)
