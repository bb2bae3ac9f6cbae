"""Each kind of bad input is one message, and leaves no shard behind."""

import gzip
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.data import GPT2Tokenizer
from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.prepare import prepare_shards
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.errors import UserError
from tests.runs import jaxgpt

GOOD = json.dumps({"text": "A document of some words. " * 9}).encode() + b"\n"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("some words")
    with pytest.raises(UserError, match="cannot be made"):
        prepare_shards(find([str(text)]).inputs, text / "out", GPT2Tokenizer(), Settings())


def prepare(path, errors="strict", **settings):
    out = path.parent / f"out-{errors}"
    return prepare_shards(find([str(path)]).inputs, out, GPT2Tokenizer(), Settings(errors=errors, **settings)), out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"content": "a"}', r"a\.jsonl:3 has 'content'.*--text-field"),
        (b'{"text": "a', r"a\.jsonl:3 is not JSON.*--errors skip"),
        (b"[" * 100_000, r"a\.jsonl:3 is not JSON"),
        (b"Once upon a time", r"a\.jsonl:3 is not JSON"),
        (b'["text"]', r"a\.jsonl:3 is no object"),
        (b'{"text": 5}', r"a\.jsonl:3 holds 5 in 'text'.*no text"),
        (b'{"text": "caf\xe9"}', r"a\.jsonl:3 is not text in UTF-8 \(byte 13\)"),
        (b'{"text": "\\ud83d"}', r"a\.jsonl:3 holds half a character"),
    ],
)
def test_a_bad_line_is_named_or_skipped_and_counted(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_bytes(GOOD * 2 + line + b"\n" + GOOD)
    with pytest.raises(UserError, match=message):
        prepare(tmp_path / "a.jsonl")
    assert not list(tmp_path.glob("out-strict/*.bin"))
    manifest, _ = prepare(tmp_path / "a.jsonl", errors="skip")
    assert (manifest["splits"]["train"]["documents"], manifest["left_out"]["skipped"]) == (3, 1)


@pytest.mark.parametrize(
    "content", [b"caf\xe9 au lait", b"x" * 300_000 + "é".encode() + b"\xe9 y", b"words " * 250_000 + b"\xc3"]
)
def test_bytes_that_are_not_utf8_are_named_or_replaced(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    (at,) = {i for i in (3, 300_002, 1_500_000) if content[i : i + 1] in (b"\xe9", b"\xc3") and i < len(content)}
    with pytest.raises(UserError, match=rf"a\.txt is not text in UTF-8 \(byte {at:,}\).*--errors replace"):
        prepare(tmp_path / "a.txt")
    _, out = prepare(tmp_path / "a.txt", errors="replace")
    assert out.exists()


@pytest.mark.parametrize("size", [20, 400_000])
def test_a_file_of_zero_bytes_is_not_text(tmp_path, size):
    (tmp_path / "a.txt").write_bytes(b"text" + bytes(size))
    with pytest.raises(UserError, match=r"a\.txt is not text in UTF-8: it holds a zero byte"):
        prepare(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_compressed_file_is_named(tmp_path, suffix, compress, damage):
    content = compress(os.urandom(3000).hex().encode() + b"\n" + GOOD * 100)
    content = content[:-40] if damage == "cut" else content[:3] + b"??????" + content[9:]
    (tmp_path / f"a.txt{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"a\.txt{suffix} is damaged or not whole"):
        prepare(tmp_path / f"a.txt{suffix}")


def test_a_truncated_parquet_file_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 100}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"a\.parquet is damaged or not whole"):
        prepare(tmp_path / "a.parquet")


def test_a_missing_column_is_named_with_those_there_are(tmp_path):
    pq.write_table(pa.table({"content": ["a"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text', but content, id.*--text-field"):
        prepare(tmp_path / "a.parquet")
    manifest, _ = prepare(tmp_path / "a.parquet", errors="skip", field="content")
    assert manifest["splits"]["train"]["documents"] == 1


def test_empty_documents_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": ""}\n{"text": " \\n"}\n\n{"text": null}\n' + GOOD)
    manifest, _ = prepare(tmp_path / "a.jsonl")
    assert (manifest["splits"]["train"]["documents"], manifest["left_out"]["empty"]) == (1, 3)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_nothing_to_train_on_is_told(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.txt holds no text"):
        prepare(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("size", [1, 200_000])
def test_a_byte_order_mark_is_no_text(tmp_path, name, size):
    text = "Words. " * size
    content = text.encode() if name == "a.txt" else json.dumps({"text": text}).encode()
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    _, out = prepare(tmp_path / name)
    (tmp_path / name).write_bytes(content)
    _, plain = prepare(tmp_path / name, errors="skip")
    assert (out / "train_000000.bin").read_bytes() == (plain / "train_000000.bin").read_bytes()


def test_a_pipe_or_device_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", "/dev/zero"):
        outcome = jaxgpt("data", "prepare", path, tmp_path / "out")
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "pipe it into `jaxgpt data prepare - FOLDER`" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.txt"], "name what to read and then the folder to write"),
        (["a.txt", "a.txt"], "is a file, and the last argument is the folder"),
        (["nowhere.txt", "out"], "does not exist"),
        (["*.md", "out"], "does not exist"),
        (["empty", "out"], "holds no text"),
        (["a.txt", "out", "--validation", "1.5"], "at least 0 and below 1"),
        (["a.txt", "out", "--validation", "test"], "neither a fraction, nor a file, nor a split"),
        (["a.txt", "out", "--val-tokens", "0"], "at least 1"),
        (["a.txt", "out", "--shard-tokens", "0"], "from 1 to"),
        (["a.txt", "out", "--workers", "-1"], "must not be below 0"),
        (["a.txt", "out", "--part", "3/3"], "I from 0 to N - 1"),
        (["a.txt", "out", "--part", "0/3"], "at least 3 files"),
        (["hf://datasets/owner", "out"], "must be hf://datasets/OWNER/NAME"),
    ],
)
def test_arguments_that_cannot_be_are_told(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("A text.")
    (tmp_path / "empty").mkdir()
    outcome = jaxgpt("data", "prepare", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
