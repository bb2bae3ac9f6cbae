"""The same documents give the same shards to the bit, however they come and whatever happens on the way."""

import bz2
import gzip
import json
import lzma
import random
import signal
import sys
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from jaxgpt.data import CharTokenizer, GPT2Tokenizer
from jaxgpt.data.preparation import prepare as module
from jaxgpt.data.preparation import reading
from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.manifest import changed_shards, read_manifest
from jaxgpt.data.preparation.prepare import prepare_shards
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.data.token_files import open_token_file
from jaxgpt.errors import UserError
from tests.runs import jaxgpt, start, wait_until

END = GPT2Tokenizer.end_of_text


def make_documents(count: int, length: int = 400) -> list[str]:
    """Texts of very different lengths, one of them longer than many blocks."""
    draw = random.Random(0)
    words = ["the", "été", "naïve 🤖", "def f(x):\n\n    return", "中文。", "don't", "1984", "  ", "\n", "x" * 30]
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 2 * length // 5))) for _ in range(count)]
    texts[count // 2] = " ".join(draw.choices(words, k=80_000))
    return [f"{number}. {text}" for number, text in enumerate(texts)]


DOCUMENTS = make_documents(120)


def write(form: str, folder, documents=DOCUMENTS) -> str:
    """The documents as a user may have them; returns what to name."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"id": 1, "text": text}) + "\n" for text in documents).encode()
    if form == "folder":
        (folder / "texts").mkdir()
        for number, text in enumerate(documents):
            (folder / "texts" / f"{number:06}.txt").write_bytes(text.encode())
        return str(folder / "texts")
    if form == "parquet":
        pq.write_table(
            pa.table({"id": range(len(documents)), "text": documents}), folder / "a.parquet", row_group_size=50
        )
        return str(folder / "a.parquet")
    compress = {"": bytes, ".zst": zstandard.compress, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    (folder / f"a.jsonl{form}").write_bytes(compress[form](lines))
    return str(folder / f"a.jsonl{form}")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(reading, "BLOCK", 3000)


def prepare(source: str, folder, shard_tokens=50_000, **more):
    settings = Settings(validation=0.1)
    return prepare_shards(find([source]).inputs, folder, GPT2Tokenizer(), settings, shard_tokens=shard_tokens, **more)


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.bin"))}


def tokens_of(folder, split: str) -> np.ndarray:
    return np.concatenate([open_token_file(path).map() for path in sorted(folder.glob(f"{split}_*.bin"))])


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Prepared from one JSON file, in this process, in blocks of the usual size."""
    folder = tmp_path_factory.mktemp("expected")
    prepare(write("", folder), folder / "out")
    return content(folder / "out")


def test_documents_are_encoded_one_by_one_and_each_has_an_end_of_text_before_it(expected, tmp_path):
    for name, shard in expected.items():
        (tmp_path / name).write_bytes(shard)
    found = np.concatenate([tokens_of(tmp_path, split) for split in ("train", "val")]).tolist()
    encoded = [[END, *GPT2Tokenizer().encode(text).tolist()] for text in DOCUMENTS]
    assert found.count(END) == len(DOCUMENTS)
    text = " ".join(map(str, found))
    assert all(" ".join(map(str, ids)) in text for ids in encoded)
    assert len(found) == sum(map(len, encoded))


@pytest.mark.parametrize("form", ["folder", "parquet", ".zst", ".gz", ".bz2", ".xz"])
def test_how_documents_are_stored_does_not_matter(form, tmp_path, small_blocks, expected):
    prepare(write(form, tmp_path), tmp_path / "out")
    assert content(tmp_path / "out") == expected


def test_documents_on_standard_input_are_the_same(tmp_path, monkeypatch, expected):
    with open(write("", tmp_path)) as file:
        monkeypatch.setattr(sys, "stdin", file)
        outcome = jaxgpt(
            "data", "prepare", "-", tmp_path / "out", "--validation", 0.1, "--shard-tokens", 50_000, "--workers", 0
        )
    assert outcome.code == 0, outcome
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_how_many_processes_share_the_work_does_not_matter(workers, tmp_path, small_blocks, expected):
    prepare(write("", tmp_path), tmp_path / "out", workers=workers)
    assert content(tmp_path / "out") == expected


@pytest.mark.parametrize("form", ["folder", "parquet", ".zst"])
def test_being_stopped_many_times_does_not_matter(form, tmp_path, small_blocks, expected, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0)
    source, stops = write(form, tmp_path), 0

    def stop_now_and_then(_):
        if draw.random() < 0.3:
            raise KeyboardInterrupt

    draw = random.Random(0)
    while True:
        try:
            prepare(source, tmp_path / "out", report=stop_now_and_then)
            break
        except KeyboardInterrupt:
            stops += 1
            for part in (tmp_path / "out").glob(".*.part"):  # what was written after the last save is lost or not
                if part.suffix == ".part" and "json" not in part.name:
                    part.write_bytes(part.read_bytes() + b"half a tok")
    assert stops > 3
    assert content(tmp_path / "out") == expected
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*expected, "manifest.json"])


def test_a_killed_process_goes_on_at_the_first_missing_shard(tmp_path):
    documents = make_documents(1000, 1000)
    source = write("", tmp_path, documents)
    flags = ("--workers", 2, "--shard-tokens", 100_000, "--validation", 0.1)
    process = start("data", "prepare", source, tmp_path / "killed", *flags)
    wait_until((tmp_path / "killed" / "train_000001.bin").exists, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first = (tmp_path / "killed" / "train_000000.bin").stat()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert jaxgpt("data", "prepare", source, tmp_path / "killed", *flags).code == 0
    assert (tmp_path / "killed" / "train_000000.bin").stat().st_mtime_ns == first.st_mtime_ns
    assert jaxgpt("data", "prepare", source, tmp_path / "whole", "--workers", 0, *flags[2:]).code == 0
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert (tmp_path / "killed" / "manifest.json").read_text() == (tmp_path / "whole" / "manifest.json").read_text()


def test_the_manifest_counts_what_there_is(tmp_path):
    manifest = prepare(write("", tmp_path), tmp_path / "out")
    assert manifest == read_manifest(tmp_path / "out")
    assert changed_shards(tmp_path / "out", manifest) == []
    splits = manifest["splits"]
    assert sum(split["documents"] for split in splits.values()) == len(DOCUMENTS)
    assert sum(split["bytes"] for split in splits.values()) == sum(len(text.encode()) for text in DOCUMENTS)
    for shard in manifest["shards"]:
        tokens = open_token_file(tmp_path / "out" / shard["file"]).map()
        assert (shard["tokens"], shard["largest"]) == (len(tokens), tokens.max())
        assert shard["documents"] == (tokens == END).sum()
        assert shard["begins"] <= shard["ends"]
    full = [shard["tokens"] for shard in manifest["shards"] if shard["split"] == "train"]
    assert set(full[:-1]) == {50_000}


def test_where_a_shard_begins_is_the_line_of_its_first_token(tmp_path):
    manifest = prepare(write("", tmp_path), tmp_path / "out")
    second = manifest["shards"][1]
    name, line = second["begins"]
    first = open_token_file(tmp_path / "out" / second["file"]).map()[:3].tolist()
    assert name == "a.jsonl"
    encoded = GPT2Tokenizer().encode(DOCUMENTS[line]).tolist()
    assert " ".join(map(str, first)) in " ".join(map(str, encoded)) or first[0] == END


def test_files_added_later_move_no_document_to_another_split(tmp_path):
    prepare(write("", tmp_path / "few", DOCUMENTS[:60]), tmp_path / "a")
    prepare(write("", tmp_path / "all", DOCUMENTS[::-1]), tmp_path / "b")

    def numbers(folder, split):
        return set(GPT2Tokenizer().decode(tokens_of(folder, split)).split("<|endoftext|>")[1:])

    assert numbers(tmp_path / "a", "val") <= numbers(tmp_path / "b", "val")
    assert numbers(tmp_path / "a", "train") <= numbers(tmp_path / "b", "train")
    assert not numbers(tmp_path / "b", "train") & numbers(tmp_path / "b", "val")


@pytest.mark.parametrize("val_tokens", [1, 999, 200_000])
def test_the_first_tokens_are_validation_where_that_is_asked_for(val_tokens, tmp_path, small_blocks):
    source = write("folder", tmp_path)
    inputs = find([source]).inputs
    sizes = {"shard_tokens": 70_000, "val_tokens": val_tokens}
    manifest = prepare_shards(inputs, tmp_path / "out", GPT2Tokenizer(), Settings(), **sizes)
    parts = [tokens_of(tmp_path / "out", split) for split in ("val", "train")]
    assert len(parts[0]) == val_tokens
    assert np.concatenate(parts).tolist() == [
        token for text in DOCUMENTS for token in (END, *GPT2Tokenizer().encode(text))
    ]
    assert sum(split["documents"] for split in manifest["splits"].values()) == len(DOCUMENTS)
    assert sum(split["bytes"] for split in manifest["splits"].values()) == sum(len(text.encode()) for text in DOCUMENTS)


def test_characters_have_shards_too_without_separators(tmp_path, small_blocks):
    tokenizer = CharTokenizer.from_text("".join(DOCUMENTS))
    prepare_shards(find([write("folder", tmp_path)]).inputs, tmp_path / "out", tokenizer, Settings())
    assert tokenizer.decode(tokens_of(tmp_path / "out", "train")) == "".join(DOCUMENTS)


def test_larger_vocabularies_have_uint32_shards(tmp_path):
    tokenizer = types.SimpleNamespace(
        name="large",
        vocab_size=70_000,
        end_of_text=69_999,
        encode=lambda text: np.frombuffer(text.encode("utf-16-le"), "<u2").astype(np.uint32) + 3000,
        spec=lambda: {"name": "large"},
    )
    (tmp_path / "a.txt").write_text("\uffff high" * 9)
    prepare_shards(find([str(tmp_path / "a.txt")]).inputs, tmp_path / "out", tokenizer, Settings())
    file = open_token_file(tmp_path / "out" / "train_000000.bin")
    assert file.dtype == np.uint32
    assert file.map()[:2].tolist() == [69_999, 0xFFFF + 3000]
    assert np.fromfile(file.path, "<i4", 3).tolist() == [20240801, 7, file.tokens]


def test_another_preparation_is_not_gone_on_with(tmp_path, monkeypatch):
    source = write("", tmp_path)
    prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "out")  # is there already
    with pytest.raises(UserError, match="prepared otherwise"):
        prepare(source, tmp_path / "out", shard_tokens=5000)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "part", report=lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(UserError, match="part of another preparation.*shard_tokens"):
        prepare(source, tmp_path / "part", shard_tokens=5000)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UserError, match="not empty.*thesis"):
        prepare(source, tmp_path / "full")


def test_a_full_disk_is_told_and_gone_on_after(tmp_path, small_blocks, expected, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0)
    source = write("", tmp_path)
    wrong = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.data.preparation.shard_writer.write_header", lambda *_: (_ for _ in ()).throw(wrong))
        with pytest.raises(UserError, match="No space left.*make room"):
            prepare(source, tmp_path / "out")
    prepare(source, tmp_path / "out")
    assert content(tmp_path / "out") == expected


def test_a_defect_in_a_worker_keeps_its_traceback(tmp_path, monkeypatch):
    inputs = find([write("", tmp_path)]).inputs
    broken = Settings(validation="a tenth")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="Traceback"):
        prepare_shards(inputs, tmp_path / "out", GPT2Tokenizer(), broken, workers=1)


def test_a_worker_that_is_killed_is_told(tmp_path, small_blocks):
    def kill_one(progress):
        found.append(progress)
        workers[0].processes[0].process.kill()

    found, workers = [], []
    usual = module.Workers
    module.Workers = lambda *arguments: workers.append(usual(*arguments)) or workers[-1]
    try:
        with pytest.raises(UserError, match="has ended.*memory"):
            prepare(write("", tmp_path), tmp_path / "out", workers=1, report=kill_one)
    finally:
        module.Workers = usual
    assert found
