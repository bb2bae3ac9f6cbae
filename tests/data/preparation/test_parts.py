import json
import os

import pytest

from jaxgpt.data.preparation.inputs import Input
from jaxgpt.data.preparation.manifest import changed_shards, read_manifest
from jaxgpt.data.preparation.parts import share
from tests.data.preparation.test_prepare import DOCUMENTS, tokens_of, write
from tests.runs import jaxgpt


@pytest.mark.parametrize("count", [1, 2, 5])
def test_parts_share_out_the_files_in_order(count):
    inputs = tuple(Input("", str(i), "text", 100 + i) for i in range(20))
    parts = [share(inputs, f"{i}/{count}") for i in range(count)]
    assert sum(parts, ()) == inputs
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.fixture
def parts(tmp_path):
    source = write("folder", tmp_path)
    for i in range(3):
        outcome = jaxgpt(
            "data",
            "prepare",
            source,
            tmp_path / "out",
            "--part",
            f"{i}/3",
            "--validation",
            0.1,
            "--shard-tokens",
            90_000,
        )
        assert outcome.code == 0, outcome
    return tmp_path / "out"


def test_joined_parts_are_the_data_as_one_machine_prepares_them(parts, tmp_path):
    assert jaxgpt("data", "join", parts).code == 0
    source = str(tmp_path / "texts")
    assert jaxgpt("data", "prepare", source, tmp_path / "one", "--validation", 0.1, "--shard-tokens", 90_000).code == 0
    for split in ("train", "val"):
        assert tokens_of(parts, split).tolist() == tokens_of(tmp_path / "one", split).tolist()
    joined, one = read_manifest(parts), read_manifest(tmp_path / "one")
    assert (joined["splits"], joined["made_from"]["inputs"]) == (one["splits"], one["made_from"]["inputs"])
    assert changed_shards(parts, joined) == []
    assert not list(parts.glob("part-*"))
    assert jaxgpt("data", "join", parts).code == 0


def test_a_join_that_was_stopped_goes_on(parts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("jaxgpt.data.preparation.parts.write_json", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            jaxgpt("data", "join", parts)
    assert jaxgpt("data", "join", parts).code == 0
    assert changed_shards(parts, read_manifest(parts)) == []


def test_parts_that_do_not_belong_together_are_refused(parts):
    manifest = parts / "part-1-of-3" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["made_from"]["shard_tokens"] = 5
    manifest.write_text(json.dumps(content))
    assert "different shard_tokens" in jaxgpt("data", "join", parts).err
    manifest.unlink()
    assert "does not hold whole token shards" in jaxgpt("data", "join", parts).err
    manifest.parent.rename(parts / "away")
    assert "all parts of one preparation" in jaxgpt("data", "join", parts).err


def test_info_counts_shows_and_verifies(parts):
    jaxgpt("data", "join", parts)
    outcome = jaxgpt("data", "info", parts, "--verify", "--documents", 5)
    assert outcome.code == 0, outcome
    assert "hashes verified" in outcome.out
    counted = [line.split() for line in outcome.out.splitlines() if "tokens and more" in line]
    assert sum(int(line[4]) for line in counted) == len(DOCUMENTS)
    assert outcome.out.count("document at token") == 5
    shard = next(parts.glob("train_*1.bin"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    assert shard.name in jaxgpt("data", "info", parts).err
    os.utime(shard, (1, 1))  # as if nobody had written to it
    assert jaxgpt("data", "info", parts).code == 0
    assert shard.name in jaxgpt("data", "info", parts, "--verify").err
    shard.write_bytes(content[:-2])
    assert f"{shard} has {len(content) - 2} bytes" in jaxgpt("data", "info", parts).err


def test_a_manifest_that_was_edited_is_refused(parts):
    jaxgpt("data", "join", parts)
    text = (parts / "manifest.json").read_text()
    (parts / "manifest.json").write_text(text.replace('"sha256": "', '"sha256": "0'))
    assert "has been changed" in jaxgpt("data", "info", parts).err
