"""flax_model.msgpack, written as transformers 4 wrote it, against the torch weights of the same model."""

import json

import numpy as np
import pytest
from flax.serialization import to_bytes

from converters import load_pretrained
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import named_parameters

FIELDS = {"vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}


def flax_parameters(model, dtype=np.float32):
    """The parameters of FlaxGPT2LMHeadModel: nested by name, kernels turned, tables and scales renamed."""
    tree = {}
    for name, weight in model.named_parameters():
        *path, last = name.split(".")
        table, norm = path[-1] in ("wte", "wpe"), path[-1].startswith("ln_")
        value = weight.detach().numpy().astype(dtype)
        if last == "weight":
            last = "embedding" if table else "scale" if norm else "kernel"
        inner = tree
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value.T if last == "kernel" else value
    return tree


@pytest.fixture
def theirs(oracle):
    return oracle.model("GPT2", **FIELDS)


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_is_the_same_model_to_the_last_bit(theirs, tmp_path, wrapped):
    theirs.save_pretrained(tmp_path / "torch")
    (tmp_path / "flax").mkdir()
    (tmp_path / "flax" / "config.json").write_text((tmp_path / "torch" / "config.json").read_text())
    tree = flax_parameters(theirs)
    (tmp_path / "flax" / "flax_model.msgpack").write_bytes(to_bytes({"params": tree} if wrapped else tree))
    one, other = (named_parameters(load_pretrained(tmp_path / name)) for name in ("torch", "flax"))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    file = named_parameters(load_pretrained(tmp_path / "flax" / "flax_model.msgpack"))
    assert all(np.array_equal(one[name], file[name]) for name in one)


@pytest.mark.parametrize("harm", [lambda raw: raw[:-7], lambda raw: b"", lambda raw: raw + b"x", lambda raw: b"\xc1"])
def test_a_broken_file_is_one_message(theirs, tmp_path, harm):
    theirs.config.save_pretrained(tmp_path)
    (tmp_path / "flax_model.msgpack").write_bytes(harm(to_bytes(flax_parameters(theirs))))
    with pytest.raises(UserError, match="is not a whole file of Flax weights"):
        load_pretrained(tmp_path)


def test_what_is_no_tree_of_arrays_is_refused(theirs, tmp_path):
    theirs.config.save_pretrained(tmp_path)
    for tree in ({"transformer": {"wte": 3}}, {"transformer": ["a"]}, {"a": {"b": "c"}}):
        (tmp_path / "flax_model.msgpack").write_bytes(to_bytes(tree))
        with pytest.raises(UserError, match="is not a whole file|do not fit"):
            load_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["n_layer"] == 2
