"""A tokenizer of one's own: trained, used by a run, and gone with it to transformers."""

import errno
from pathlib import Path

import pytest

import jaxgpt as package
from tests.runs import jaxgpt, write_text


def test_a_tokenizer_is_trained_used_and_exported(tmp_path):
    transformers = pytest.importorskip("transformers")
    text = write_text(tmp_path / "text.txt")
    made = jaxgpt("data", "tokenizer", text, tmp_path / "own", "--vocab-size", 300)
    assert (made.code, made.err) == (0, "")
    assert "holds a tokenizer of 300 tokens" in made.out
    flags = ("--data.tokenizer", tmp_path / "own", "--model.vocab-size", 300, "--steps", 2, "--eval-every", 2)
    trained = jaxgpt("train", "tiny", "--data.source", text, *flags, "--run", tmp_path / "run", "--sample-tokens", 8)
    assert trained.code == 0, trained
    own = package.load_tokenizer(tmp_path / "run")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "own")
    sample = text.read_text()[:200] + "ünseen"
    assert own.encode(sample).tolist() == theirs(sample)["input_ids"]
    assert jaxgpt("generate", tmp_path / "run", "--prompt", "ünseen", "--max-new-tokens", 8).out.startswith("ünseen")


def test_what_cannot_be_trained_is_refused(tmp_path):
    text = write_text(tmp_path / "text.txt")
    (tmp_path / "link").symlink_to("nowhere")
    for flags, message in (
        ((text,), "name what to read and then the folder to write"),
        ((text, tmp_path), "is not empty"),
        ((text, tmp_path / "own", "--vocab-size", 5), "vocab_size=5 is below 257"),
        ((text, text / "own", "--vocab-size", 300), "own cannot be written (Not a directory)"),
        ((text, tmp_path / "link", "--vocab-size", 300), "link cannot be written (File exists)"),
        ((text, tmp_path / "own", "--vocab-size", 10**11), "vocab_size=100000000000 is above 1,000,000"),
    ):
        outcome = jaxgpt("data", "tokenizer", *flags)
        assert outcome.code == 2
        assert message in outcome.err
    assert not (tmp_path / "own").exists()


def test_a_tokenizer_that_a_full_disk_cuts_off_is_not_left(tmp_path, monkeypatch):
    def fill_the_disk(path, text, **_):
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    text = write_text(tmp_path / "text.txt")
    monkeypatch.setattr(Path, "write_text", fill_the_disk)
    outcome = jaxgpt("data", "tokenizer", text, tmp_path / "own", "--vocab-size", 300)
    assert (outcome.code, outcome.out) == (2, "")
    assert "own cannot be written (No space left on device): make room" in outcome.err
    assert not any((tmp_path / "own").iterdir())
