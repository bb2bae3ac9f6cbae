import dataclasses
import json
import shutil

import pytest

from jaxgpt.data import CharTokenizer, prepare
from jaxgpt.errors import UserError
from jaxgpt.training.config import DataConfig, TrainConfig
from jaxgpt.training.presets import PRESETS
from jaxgpt.training.run import Run, create_run, is_run, read_run, reconfigured, write_config

TEXT = "to be or not to be " * 40
CONFIG = TrainConfig.preset("tiny")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def run(text, tmp_path) -> Run:
    data = prepare(str(text), "char")
    model = dataclasses.replace(CONFIG.model, vocab_size=data.tokenizer.vocab_size)
    config = dataclasses.replace(CONFIG, model=model, data=DataConfig(str(text), "char"))
    return create_run(tmp_path / "run", config, data)


def edit(run: Run, **changes) -> None:
    path = run.folder / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in {**record, **changes}.items() if value is not None}))


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name):
    config = TrainConfig.preset(name)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_run_is_read_as_it_was_made(run):
    found = read_run(run.folder)
    assert (found.folder, found.config, found.source_hash) == (run.folder, run.config, run.source_hash)
    assert found.tokenizer.spec() == run.tokenizer.spec()
    assert (found.data().train == run.data().train).all()
    assert sorted(path.name for path in run.folder.iterdir()) == ["config.json", "samples"]


@pytest.mark.parametrize("content", ["notes.txt", "config.json"])
def test_a_folder_that_holds_anything_is_refused_and_untouched(run, tmp_path, content):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / content).write_text("mine")
    with pytest.raises(ValueError, match="--run .*full is not empty; name another folder"):
        create_run(folder, run.config, run.data())
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(content, "mine")]


def test_a_name_too_long_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"the run folder .* cannot be written \(File name too long\)"):
        create_run(tmp_path / ("x" * 300), run.config, run.data())
    with pytest.raises(UserError, match="is not a run folder"):
        read_run(tmp_path / ("x" * 300))


def test_a_run_in_the_way_is_named_as_what_to_resume(run):
    with pytest.raises(ValueError, match="is not empty; go on with it by `jaxgpt train --resume .*run`"):
        create_run(run.folder, run.config, run.data())


@pytest.mark.parametrize("character", "*?[]\\")
def test_a_path_in_which_orbax_loses_checkpoints_is_refused(run, tmp_path, character):
    folder = tmp_path / f"run {character}1"
    with pytest.raises(ValueError, match="its path holds .*choose another folder"):
        create_run(folder, run.config, run.data())
    assert not folder.exists()
    renamed = dataclasses.replace(run, folder=run.folder.rename(folder))
    with pytest.raises(ValueError, match="its path holds .*or rename it"):
        reconfigured(read_run(renamed.folder), run.config)


def test_a_tokenizer_that_does_not_match_the_model_is_refused_and_nothing_written(run, text, tmp_path):
    with pytest.raises(ValueError, match=r"the gpt2 tokenizer .* has 50257 tokens and the model 7; use --model.vocab"):
        create_run(tmp_path / "other", run.config, prepare(str(text), "gpt2"))
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_that_does_not_match_the_run_is_refused(run):
    edit(run, tokenizer=CharTokenizer("abc").spec())
    with pytest.raises(ValueError, match="the char tokenizer .* has 3 tokens and the model 7"):
        read_run(run.folder)


def test_a_text_that_has_changed_is_refused(run, text):
    text.write_text(TEXT.replace("not", "ton"))
    with pytest.raises(ValueError, match=r"text.txt' has changed since .*run began \(text.txt\); restore it"):
        read_run(run.folder).data()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": dataclasses.replace(CONFIG.model, num_layers=3)},
        {"data": DataConfig("elsewhere.txt", "char")},
        {"seed": 5},
        {"batch_size": 16},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_makes_another_run_of_it_cannot_change(run, changes):
    before = (run.folder / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match=f"is a run with {next(iter(changes))}[.a-z_]*=.*, not .*cannot change within a run"
    ):
        reconfigured(run, dataclasses.replace(run.config, **changes))
    assert (run.folder / "config.json").read_bytes() == before


def test_what_does_not_may(run):
    longer = dataclasses.replace(run.config, steps=77, microbatches=2, eval_every=7)
    write_config(reconfigured(run, longer))
    assert read_run(run.folder).config == longer


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert not is_run(folder)
        with pytest.raises(ValueError, match="is not a run folder: it has no config.json written by `jaxgpt train`"):
            read_run(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jaxgpt_run": 99}, "has format 99, and this version reads format 1"),
        ({"tokenizer": None}, "config.json is not whole"),
        ({"source_hash": None}, "config.json is not whole"),
        ({"config": None}, "not the config of a run made by this version"),
        ({"config": {**CONFIG.to_dict(), "stepz": 3}}, "not the config of a run made by this version.*stepz"),
        ({"config": {**CONFIG.to_dict(), "model": {"num_layerz": 3}}}, "did you mean 'num_layers'"),
        ({"config": {**CONFIG.to_dict(), "steps": -1}}, "steps=-1 must not be below 0"),
        ({"config": {**CONFIG.to_dict(), "model": 3}}, "not the config of a run made by this version"),
        ({"config": "tiny"}, "not the config of a run made by this version"),
        ({"tokenizer": {"name": "sentencepiece"}}, "tokenizer 'sentencepiece' is not known"),
    ],
)
def test_a_damaged_config_is_one_clear_error(run, changes, message):
    edit(run, **changes)
    with pytest.raises(ValueError, match=message):
        read_run(run.folder)


def test_a_cut_off_config_is_no_run(run):
    path = run.folder / "config.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a run folder"):
        read_run(run.folder)


def test_a_config_is_written_whole_or_not_at_all(run, monkeypatch):
    before = (run.folder / "config.json").read_bytes()

    def write_half(path, content, *_, **__):
        path.write_bytes(content[:50].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", write_half)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\): make room"):
        write_config(dataclasses.replace(run, config=dataclasses.replace(run.config, steps=1)))
    assert (run.folder / "config.json").read_bytes() == before


def test_a_run_can_be_moved(run, tmp_path):
    moved = shutil.move(run.folder, tmp_path / "moved")
    assert read_run(moved).config == run.config


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"microbatches": 3}, "batch_size=8 is not a multiple of microbatches=3"),
        ({"seed": -1}, "seed=-1 must not be below 0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **wrong)
