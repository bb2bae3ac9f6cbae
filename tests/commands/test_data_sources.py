"""A run on each kind of source: trained, resumed on another mesh, evaluated; other data refused by name."""

import json
import pickle

import numpy as np
import pytest

from jaxgpt.data import CharTokenizer
from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.prepare import prepare_shards
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.training.config import DataConfig, TrainConfig
from tests.data.test_sources import write_bin
from tests.runs import jaxgpt, lines, write_text

FLAGS = ("--model.num-layers", 1, "--steps", 4, "--eval-every", 2, "--sample-tokens", 4)
FLAGS = (*FLAGS, "--optimizer.final-learning-rate", 3e-3, "--optimizer.warmup-steps", 1)  # whatever the number of steps


@pytest.fixture
def sources(tmp_path):
    """The same characters in every form."""
    text = write_text(tmp_path / "text.txt")
    tokenizer = CharTokenizer.from_text(text.read_text())
    inputs = find([str(text)]).inputs
    prepare_shards(inputs, tmp_path / "prepared", tokenizer, Settings(), shard_tokens=5000, val_tokens=3000)
    ids = tokenizer.encode(text.read_text())
    meta = {"vocab_size": 65, "itos": dict(enumerate(tokenizer.characters)), "stoi": {}}
    for folder, magic, names in (
        ("nanogpt", None, ("val.bin", "train.bin")),
        ("llmc", 20240520, ("x_val_000000.bin", "x_train_000001.bin", "x_train_000002.bin")),
        ("nemo", 278895051, ("val.bin", "train.bin")),
    ):
        for name, part in zip(names, np.array_split(ids, len(names)), strict=True):
            write_bin(tmp_path / folder / name, part, magic, width=2)
        (tmp_path / folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return tmp_path


@pytest.mark.parametrize("source", ["prepared", "nanogpt", "llmc", "nemo", "mixture"])
def test_a_run_is_trained_resumed_on_another_mesh_and_evaluated(sources, source):
    run = sources / "run"
    named = ("--data.source", sources / source)
    if source == "mixture":
        named = ("--data.mixture", f"{sources / 'prepared'}=3", "--data.mixture", f"{sources / 'llmc'}=1")
        named = (*named, "--data.val-source", sources / "nanogpt", "--data.block-shuffle")
    outcome = jaxgpt("train", "tiny", *named, "--run", run, *FLAGS)
    assert outcome.code == 0, outcome
    outcome = jaxgpt("train", "--resume", run, "--steps", 8, "--mesh.data", 2, "--mesh.fsdp", 2)
    assert outcome.code == 0, outcome
    outcome = jaxgpt("evaluate", run)
    assert outcome.code == 0, outcome
    assert "bits per byte" in outcome.out

    if source not in ("prepared", "mixture"):
        return
    whole = sources / "whole"
    assert jaxgpt("train", "tiny", *named, "--run", whole, *FLAGS, "--steps", 8).code == 0
    resumed, once = ([line["loss"] for line in lines(folder) if "loss" in line] for folder in (run, whole))
    np.testing.assert_allclose(resumed, once, rtol=1e-3)


def test_other_data_are_refused_and_the_file_is_named(sources):
    run = sources / "run"
    assert jaxgpt("train", "tiny", "--data.source", sources / "llmc", "--run", run, *FLAGS).code == 0
    path = sources / "llmc" / "x_train_000002.bin"
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    outcome = jaxgpt("train", "--resume", run, "--steps", 8)
    assert outcome.code == 2
    assert "has changed since" in outcome.err
    assert "(x_train_000002.bin)" in outcome.err


def test_presets_of_gpt2_say_how_to_get_data(tmp_path):
    for name in ("gpt2", "gpt2-xl", "gpt2-fineweb10B"):
        outcome = jaxgpt("train", name, "--run", tmp_path / "run")
        assert outcome.code == 2
        assert "jaxgpt data prepare hf://datasets/HuggingFaceFW/fineweb/sample/10BT" in outcome.err
        assert "19,073 steps of 2^19" in outcome.err
    assert not (tmp_path / "run").exists()


def test_the_preset_of_fineweb_is_llm_cs_recipe():
    config = TrainConfig.preset("gpt2-fineweb10B")
    assert config.batch_size * config.model.context_length == 524_288
    assert config.steps * 524_288 == 19_560 * 2**19
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.final_learning_rate, optimizer.warmup_steps) == (6e-4, 0.0, 700)


def test_a_run_of_version_0_1_keeps_its_order_and_a_new_one_has_the_new():
    assert DataConfig.from_dict({"source": "stdlib", "tokenizer": "gpt2"}).order == "v0.1"
    data = DataConfig(mixture=("a=1", "b=2"))
    saved = json.loads(json.dumps(TrainConfig(data=data).to_dict()))
    assert TrainConfig.from_dict(saved).data == data
