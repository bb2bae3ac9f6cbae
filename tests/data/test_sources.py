"""What other programs prepared, what we prepared, and mixtures of both, as one kind of data."""

import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

from jaxgpt.data import Batches, CharTokenizer, GPT2Tokenizer, open_data, prepare
from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.manifest import make_manifest, write_json
from jaxgpt.data.preparation.prepare import prepare_shards
from jaxgpt.data.preparation.shard_writer import Shard
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.data.sources import changed_files, file_hashes
from jaxgpt.data.token_files import open_token_file, write_header
from jaxgpt.errors import UserError

TEXT = "Once upon a time there was a naïve robot. " * 40
IDS = GPT2Tokenizer().encode(TEXT)


def write_bin(path, ids=IDS, magic=20240520, version=1, width=0):
    dtype = np.uint32 if magic == 20240801 or width == 4 else np.uint16
    header = b"" if magic is None else struct.pack("<256i", magic, version, len(ids), width, *[0] * 252)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(header + np.asarray(ids, dtype).tobytes())


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i:02}.txt").write_text(f"Document {i}. {TEXT}")
    settings = Settings(validation=0.2)
    inputs = find([str(tmp_path / "texts")]).inputs
    prepare_shards(inputs, tmp_path / "prepared", GPT2Tokenizer(), settings, shard_tokens=3000)
    return tmp_path / "prepared"


def test_a_prepared_folder_is_its_shards_one_after_another(prepared, tmp_path):
    data = prepare(str(prepared), "gpt2", tmp_path)
    for split, name in (("train", "train"), ("validation", "val")):
        files = [open_token_file(path).map() for path in sorted(prepared.glob(f"{name}_*.bin"))]
        np.testing.assert_array_equal(getattr(data, split), np.concatenate(files))
    assert data.tokenizer.name == "gpt2"
    text = sum(len(f"Document {i}. {TEXT}".encode()) for i in range(30))
    assert sum(split["bytes"] for split in data.manifest["splits"].values()) == text
    ids = len(data.validation)
    assert data.bytes_per_token == data.manifest["splits"]["validation"]["bytes"] / ids


def test_a_prepared_folder_of_another_tokenizer_is_refused(prepared):
    with pytest.raises(UserError, match=r"in the tokens of gpt2 \(50257\), and char \(3\) is needed"):
        prepare(str(prepared), CharTokenizer("abc"))


def test_a_shard_changed_at_equal_size_is_named(prepared):
    (shard,) = prepared.glob("train_*01.bin")
    content = bytearray(shard.read_bytes())
    content[2000:2010] = b"\xff" * 10
    shard.write_bytes(content)
    with pytest.raises(UserError, match=rf"changed since it was prepared: {shard.name};"):
        prepare(str(prepared), "gpt2")


def test_a_copied_folder_is_verified_once(prepared, monkeypatch):
    for shard in prepared.glob("*.bin"):
        shard.touch()
    prepare(str(prepared), "gpt2")
    monkeypatch.setattr("jaxgpt.data.preparation.manifest.changed_shards", None)
    prepare(str(prepared), "gpt2")


def test_nanogpts_folder_of_gpt2_tokens(tmp_path):
    write_bin(tmp_path / "d" / "train.bin", magic=None)
    write_bin(tmp_path / "d" / "val.bin", IDS[:100], magic=None)
    data = prepare(str(tmp_path / "d"), "gpt2", tmp_path)
    np.testing.assert_array_equal(data.train, IDS)
    np.testing.assert_array_equal(data.validation, IDS[:100])
    assert data.bytes_per_token == len(GPT2Tokenizer().decode(IDS[:100]).encode()) / 100


def test_nanogpts_folder_of_characters_has_its_own_tokenizer(tmp_path):
    characters = sorted(set(TEXT))
    write_bin(tmp_path / "d" / "train.bin", [characters.index(c) for c in TEXT], magic=None)
    write_bin(tmp_path / "d" / "val.bin", [characters.index(c) for c in TEXT[:99]], magic=None)
    meta = {"vocab_size": len(characters), "itos": dict(enumerate(characters)), "stoi": {}}
    (tmp_path / "d" / "meta.pkl").write_bytes(pickle.dumps(meta))
    for tokenizer in ("gpt2", "char"):
        data = prepare(str(tmp_path / "d"), tokenizer, tmp_path)
        assert data.tokenizer.decode(data.train) == TEXT
        assert data.bytes_per_token == len(TEXT[:99].encode()) / 99
    with pytest.raises(UserError, match="characters of .*meta.pkl are not those"):
        prepare(str(tmp_path / "d"), CharTokenizer("abc"), tmp_path)


def test_nothing_in_a_pickle_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    write_bin(tmp_path / "d" / "train.bin", magic=None)
    (tmp_path / "d" / "meta.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"meta\.pkl"):
        prepare(str(tmp_path / "d"), "gpt2", tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("magic", "version", "width"), [(20240520, 1, 0), (20240801, 7, 0), (278895051, 1, 2), (278895051, 1, 4)]
)
@pytest.mark.parametrize("named", ["folder", "pattern"])
def test_shards_of_llm_c_modded_nanogpt_and_nemo(tmp_path, magic, version, width, named):
    folder = tmp_path / "fineweb10B"
    write_bin(folder / "fineweb_val_000000.bin", IDS[:99], magic, version, width)
    for i in range(3):
        write_bin(folder / f"fineweb_train_{i + 1:06}.bin", IDS[i * 100 : i * 100 + 100], magic, version, width)
    data = prepare(str(folder) if named == "folder" else str(folder / "fineweb_train_*.bin"), "gpt2", tmp_path)
    np.testing.assert_array_equal(data.train, IDS[:300])
    np.testing.assert_array_equal(data.validation, IDS[:99])


def test_two_data_sets_in_a_folder_are_told_apart(tmp_path):
    write_bin(tmp_path / "d" / "a_train_0.bin")
    write_bin(tmp_path / "d" / "b_train_0.bin")
    with pytest.raises(UserError, match="holds several data sets.*pattern"):
        prepare(str(tmp_path / "d"), "gpt2", tmp_path)


def test_a_token_beyond_the_vocabulary_is_told_when_the_files_are_opened(tmp_path):
    write_bin(tmp_path / "d" / "x_train_0.bin", [1, 50999, 2])
    with pytest.raises(UserError, match=r"x_train_0\.bin holds token 50999, and the gpt2 tokenizer has 50257"):
        prepare(str(tmp_path / "d"), "gpt2", tmp_path)


def test_files_are_looked_through_once(tmp_path, monkeypatch):
    write_bin(tmp_path / "d" / "x_train_0.bin")
    prepare(str(tmp_path / "d"), "gpt2", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.data.foreign.largest_token", None)
        first = prepare(str(tmp_path / "d"), "gpt2", tmp_path)
    write_bin(tmp_path / "d" / "x_train_0.bin", IDS[::-1])
    second = prepare(str(tmp_path / "d"), "gpt2", tmp_path)
    assert first.manifest["source_hash"] != second.manifest["source_hash"]
    assert changed_files(file_hashes(first.manifest), file_hashes(second.manifest)) == ["x_train_0.bin"]


def test_validation_may_come_from_another_source(tmp_path, prepared):
    write_bin(tmp_path / "one.bin")
    with pytest.raises(UserError, match=r"one\.bin' holds nothing back.*--data\.val-source"):
        open_data(str(tmp_path / "one.bin"), "gpt2", cache=tmp_path)
    data = open_data(str(tmp_path / "one.bin"), "gpt2", val_source=str(prepared), cache=tmp_path)
    other = prepare(str(prepared), "gpt2")
    np.testing.assert_array_equal(data.validation, other.validation)
    assert data.bytes_per_token == other.bytes_per_token
    alone = open_data(str(prepared), "gpt2", val_source=str(tmp_path / "one.bin"), cache=tmp_path)
    assert len(alone.validation) == len(IDS)
    assert len({data.manifest["source_hash"], alone.manifest["source_hash"], other.manifest["source_hash"]}) == 3


def test_a_mixture_draws_from_each_source(tmp_path, prepared):
    write_bin(tmp_path / "d" / "train.bin", np.arange(500), magic=None)
    write_bin(tmp_path / "d" / "val.bin", np.arange(500), magic=None)
    data = open_data("", "gpt2", mixture=[f"{prepared}=3", f"{tmp_path / 'd'}=1"], cache=tmp_path)
    rows = np.stack([Batches(data.train, 4, 16, 0).row(i) for i in range(40)])
    assert (np.diff(rows) == 1).all(axis=1).sum() in (8, 9, 10)
    assert data.manifest["splits"]["validation"]["tokens"] == len(data.validation)
    other = open_data("", "gpt2", mixture=[f"{prepared}=2", f"{tmp_path / 'd'}=1"], cache=tmp_path)
    assert data.manifest["source_hash"] != other.manifest["source_hash"]


@pytest.mark.parametrize("mixture", [["a"], ["a=b"], ["=1"], ["a=0"], ["a=-1"], ["a=inf"], ["a=1", "a=2"]])
def test_a_mixture_that_cannot_be_is_told(mixture):
    with pytest.raises(UserError, match="data.mixture"):
        open_data("", "gpt2", mixture=mixture)


@pytest.mark.parametrize("source", ["-", "hf://datasets/owner/name"])
def test_what_is_read_once_is_prepared_first(source):
    with pytest.raises(UserError, match=f"jaxgpt data prepare {source} FOLDER"):
        prepare(source, "gpt2")


def test_ten_billion_tokens_are_ready_in_50_mb(tmp_path):
    """A hundred sparse shards of 10^8 tokens. Printed with -s: the processor time, below a second."""
    dtype, shards = np.dtype("<u2"), []
    for i in range(101):
        name = f"train_{i:06}.bin" if i else "val_000000.bin"
        with (tmp_path / name).open("wb") as file:
            write_header(file, 10**8, dtype)
            file.truncate(1024 + 2 * 10**8)
        shards.append(Shard(name, "train" if i else "validation", 10**8, 4 * 10**8, 1000, 50256, sha256="0"))
    write_json(tmp_path / "manifest.json", make_manifest(GPT2Tokenizer(), shards, {}))
    program = f"""
import resource, time
from jaxgpt.data import Batches, open_data
import grain
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
data = open_data({str(tmp_path)!r}, "gpt2")
batches = Batches(data.train, 64, 1024, 0, vocab_size=50257)
batches(0), batches(10**5)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(data.train), time.process_time() - began, (after - before) / 1000)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    tokens, seconds, megabytes = map(float, found)
    assert tokens == 10**10
    print(f"ready after {seconds:.2f} s")
    assert megabytes < 50
