"""What lies at a path: two sets of weights, wrapped names, files that are none, folders of another kind."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import load_pretrained, save_pretrained
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")


def same(one, other):
    one, other = named_parameters(one), named_parameters(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_of_a_single_file_and_an_index_the_single_file_is_read_as_by_transformers(oracle, tokens, tmp_path, kind):
    torch = pytest.importorskip("torch")

    fields = {"vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
    old, new = oracle.model("GPT2", seed=1, **fields), oracle.model("GPT2", seed=2, **fields)
    old.save_pretrained(tmp_path / "old", max_shard_size="20KB")
    new.save_pretrained(tmp_path / "new")
    if kind == "safetensors":
        shutil.copy(tmp_path / "new" / "model.safetensors", tmp_path / "old")
    else:
        names = json.loads((tmp_path / "old" / "model.safetensors.index.json").read_text())["weight_map"]
        for file in set(names.values()):
            torch.save(
                {n: t for n, t in old.state_dict().items() if names.get(n) == file},
                tmp_path / "old" / file.replace("model", "pytorch_model").replace("safetensors", "bin"),
            )
            (tmp_path / "old" / file).unlink()
        (tmp_path / "old" / "model.safetensors.index.json").unlink()
        renamed = {n: f.replace("model", "pytorch_model").replace("safetensors", "bin") for n, f in names.items()}
        (tmp_path / "old" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
        torch.save(new.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    theirs = oracle.open(tmp_path / "old")
    assert oracle.logit_error(load_pretrained(tmp_path / "old"), theirs, tokens) < oracle.logit_bound
    assert same(load_pretrained(tmp_path / "old"), load_pretrained(tmp_path / "new"))


WRAPS = {
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "DistributedDataParallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "PEFT": lambda name: f"base_model.model.{name}",
    "a compiled block": lambda name: name.replace("h.1.", "h.1._orig_mod."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace("h.0.", "h.0._fsdp_wrapped_module."),
}


@pytest.mark.parametrize("wrapper", WRAPS)
def test_names_that_a_wrapper_changed_are_read_and_told(folder, make_model, capsys, wrapper):
    path = folder / "model.safetensors"
    save_file({WRAPS[wrapper](name): tensor for name, tensor in load_file(path).items()}, path)
    assert same(load_pretrained(folder), make_model(TINY))
    assert "which a wrapper of the model put there" in capsys.readouterr().err


def test_a_name_that_occurs_with_and_without_its_wrapper_is_refused(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"module.transformer.ln_f.bias": tensors["transformer.ln_f.bias"] + 1}, path)
    with pytest.raises(UserError, match=r"ln_f.bias occurs twice, with and without module\."):
        load_pretrained(folder)


@pytest.mark.parametrize(
    "heads",
    [
        {"multiple_choice_head.summary.weight": (1, 32), "multiple_choice_head.summary.bias": (1,)},
        {"score.weight": (2, 32)},
        {"classifier.weight": (3, 32), "classifier.bias": (3,)},
        {"qa_outputs.weight": (2, 32), "qa_outputs.bias": (2,)},
    ],
    ids=["double heads", "sequence", "token", "question"],
)
def test_heads_of_other_classes_are_dropped_and_told(folder, make_model, capsys, heads):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {name: np.ones(shape, np.float32) for name, shape in heads.items()}, path)
    assert same(load_pretrained(folder), make_model(TINY))
    assert f"{next(iter(sorted(heads, reverse=True)))} dropped" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["GPT2DoubleHeadsModel", "GPT2ForSequenceClassification", "GPT2ForTokenClassification"]
)
def test_the_classes_with_other_heads_of_transformers_load(oracle, tokens, tmp_path, name):
    import transformers

    theirs = oracle.model("GPT2", vocab_size=97, n_positions=32, n_layer=2, n_head=4, n_embd=32)
    other = getattr(transformers, name)(theirs.config)
    other.transformer.load_state_dict(theirs.transformer.state_dict())
    other.save_pretrained(tmp_path)
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound


def test_a_tied_model_may_keep_its_table_under_the_name_of_the_head(oracle, tokens, tmp_path):
    pytest.importorskip("torch")
    from safetensors.torch import save_model

    theirs = oracle.model("GPT2", vocab_size=97, n_positions=32, n_layer=2, n_head=4, n_embd=32)
    theirs.save_pretrained(tmp_path)
    save_model(theirs, str(tmp_path / "model.safetensors"))
    assert "transformer.wte.weight" not in load_file(tmp_path / "model.safetensors")
    assert oracle.logit_error(load_pretrained(tmp_path), theirs, tokens) < oracle.logit_bound


def test_lora_weights_that_were_not_merged_say_so(folder):
    path = folder / "model.safetensors"
    names = {n: n.replace("c_attn.weight", "c_attn.base_layer.weight") for n in load_file(path)}
    save_file({names[n]: tensor for n, tensor in load_file(path).items()}, path)
    with pytest.raises(UserError, match="LoRA weights not merged"):
        load_pretrained(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(folder, file, kind):
    (folder / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / file)
    elif kind == "device":
        (folder / file).symlink_to("/dev/zero")
    else:
        (folder / file).mkdir()
    started = time.monotonic()
    with pytest.raises(UserError, match="is a pipe, socket or device|is a folder"):
        load_pretrained(folder)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("name", ["ckpt.pt", "model.bin", "x.safetensors", "flax_model.msgpack"])
def test_a_pipe_as_a_weights_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe"):
        load_pretrained(tmp_path / name)


def test_a_config_of_many_gigabytes_is_not_read(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(50 * 10**9)
    with pytest.raises(UserError, match="has 50,000,000,000 bytes"):
        load_pretrained(folder)


def test_a_file_of_the_hubs_cache_is_read_by_either_name(folder, make_model, tmp_path):
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    for number, file in enumerate(folder.iterdir()):
        blob = cache / "blobs" / f"{number:040x}"
        file.rename(blob)
        (cache / "snapshots" / "abc" / file.name).symlink_to(f"../../blobs/{blob.name}")
    link = cache / "snapshots" / "abc" / "model.safetensors"
    for source in (link.parent, link, link.resolve()):
        assert same(load_pretrained(source), make_model(TINY)), source


def test_a_tiny_checkpoint_that_claims_gigabytes_is_refused_at_once(tmp_path):
    torch = pytest.importorskip("torch")
    wide = torch.zeros(1).expand(50000, 40000)
    args = {"n_layer": 1, "n_head": 4, "n_embd": 40000, "block_size": 8, "bias": False, "vocab_size": 50000}
    torch.save({"model": {"transformer.wte.weight": wide}, "model_args": args}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="claims tensors of 8,000,000,000"):
        load_pretrained(tmp_path)


def test_a_header_of_many_layers_is_refused_at_once(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", "llm.c")
    path = tmp_path / "out" / "model.bin"
    header = np.fromfile(path, np.int32)
    for layers, reason in ((2000, "bytes"), (10**6, "num_layers=1000000 is too large")):
        header[4] = layers
        header.tofile(path)
        started = time.monotonic()
        with pytest.raises(UserError, match=reason):
            load_pretrained(path)
        assert time.monotonic() - started < 2
