"""OpenAI's checkpoints: a tensor bundle written here, by the layout that LevelDB and TensorFlow document.

Once, outside this suite, TensorFlow 2.21 wrote such bundles itself, of 2 and of 48 layers: read to the last bit.
"""

import contextlib
import json
import shutil

import numpy as np
import pytest

from converters import load_pretrained
from converters.arguments import Convert
from converters.commands import convert
from converters.gpt2_tokenizer import gpt2_vocabulary
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.loading import load_tokenizer, write_source_tokenizer
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")
HPARAMS = {"n_vocab": 97, "n_ctx": 32, "n_embd": 32, "n_head": 4, "n_layer": 2}
RESTARTS, BLOCK_BYTES = 16, 512


def varint(number):
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def block(pairs):
    """Keys and values; a key is told by how much it shares with the one before, from the start at each restart."""
    body, restarts, before = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % RESTARTS == 0:
            restarts.append(len(body))
        else:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    numbers = np.array([*(restarts or [0]), len(restarts or [0])], "<u4").tobytes()
    return body + numbers


def table(pairs):
    """The index file: blocks, each with its compression (0, none) and a checksum, their index, and a footer."""
    file, handles, group = b"", [], []

    def add(content):
        nonlocal file
        handle = varint(len(file)) + varint(len(content))
        file += content + b"\0" + b"\0\0\0\0"
        return handle

    for number, pair in enumerate(pairs):
        group.append(pair)
        if number == len(pairs) - 1 or len(block(group)) > BLOCK_BYTES:
            handles.append((pair[0], add(block(group))))
            group = []
    meta, index = add(block([])), add(block(handles))
    return file + (meta + index).ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")


def entry(shape, offset, size, dtype=1):
    """BundleEntryProto: dtype, shape, offset, size, checksum. Zeros are left out, as protocol buffers do."""
    axes = b"".join(b"\x12" + varint(len(axis)) + axis for axis in (b"\x08" + varint(size) for size in shape))
    place = b"\x20" + varint(offset) if offset else b""
    return b"\x08" + varint(dtype) + b"\x12" + varint(len(axes)) + axes + place + b"\x28" + varint(size) + b"\x35abcd"


def write_bundle(folder, tensors, name="model.ckpt"):
    header, data = (b"", b"\x08\x01\x1a\x02\x08\x01"), b""
    pairs = [header]
    for key in sorted(tensors):
        pairs.append((key.encode(), entry(tensors[key].shape, len(data), tensors[key].nbytes)))
        data += tensors[key].tobytes()
    (folder / f"{name}.index").write_bytes(table(pairs))
    (folder / f"{name}.data-00000-of-00001").write_bytes(data)


def published(model):
    """The tensors of a model under OpenAI's names: kernels are those of a convolution of width 1."""
    weights = {name: np.asarray(value) for name, value in named_parameters(model).items()}
    found = {"model/wte": weights["embed"][: model.config.vocab_size], "model/wpe": weights["position"]}
    found |= {"model/ln_f/g": weights["norm.scale"], "model/ln_f/b": weights["norm.bias"]}
    width = model.config.d_model
    for layer in range(model.config.num_layers):
        ours, theirs = f"blocks.{layer}.", f"model/h{layer}/"
        for norm, name in (("attn_norm", "ln_1"), ("mlp_norm", "ln_2")):
            found |= {theirs + name + "/g": weights[f"{ours}{norm}.scale"]}
            found |= {theirs + name + "/b": weights[f"{ours}{norm}.bias"]}
        parts = [weights[f"{ours}attn.{part}.kernel"].reshape(width, -1) for part in ("query", "key", "value")]
        found[theirs + "attn/c_attn/w"] = np.concatenate(parts, axis=1)[None]
        parts = [weights[f"{ours}attn.{part}.bias"].ravel() for part in ("query", "key", "value")]
        found[theirs + "attn/c_attn/b"] = np.concatenate(parts)
        for part, name in (("attn.out", "attn/c_proj"), ("mlp.up", "mlp/c_fc"), ("mlp.down", "mlp/c_proj")):
            kernel, bias = weights[f"{ours}{part}.kernel"], weights[f"{ours}{part}.bias"]
            found[theirs + name + "/w"] = kernel.reshape(-1, bias.size)[None]
            found[theirs + name + "/b"] = bias
    return found


@pytest.fixture
def folder(make_model, tmp_path):
    source = tmp_path / "117M"
    source.mkdir()
    (source / "hparams.json").write_text(json.dumps(HPARAMS))
    (source / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "x"\n')
    write_bundle(source, published(make_model(TINY)))
    return source


def same(one, other):
    one, other = named_parameters(one), named_parameters(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_openais_checkpoint_is_the_model_to_the_last_bit(folder, make_model):
    found = load_pretrained(folder)
    assert found.config == TINY
    assert same(found, make_model(TINY))


def test_of_several_checkpoints_the_one_that_is_named_is_read(folder, make_model):
    write_bundle(folder, published(make_model(TINY, seed=1)), "model-1000")
    assert same(load_pretrained(folder), make_model(TINY))
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-1000"\n')
    assert same(load_pretrained(folder), make_model(TINY, seed=1))
    (folder / "checkpoint").unlink()
    with pytest.raises(UserError, match="no single checkpoint"):
        load_pretrained(folder)


def test_its_tokenizer_leaves_in_the_files_that_others_open(folder, make_model, tmp_path):
    vocab, merges = gpt2_vocabulary()
    (folder / "encoder.json").write_text(json.dumps(vocab))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    assert load_tokenizer(folder).name == "gpt2"
    wide = GPTConfig.preset("tiny", vocab_size=50257)
    (folder / "hparams.json").write_text(json.dumps(HPARAMS | {"n_vocab": 50257}))
    write_bundle(folder, published(make_model(wide)))
    convert(Convert(str(folder), tmp_path / "out"), write_tokenizer=write_source_tokenizer)
    assert same(load_pretrained(tmp_path / "out"), make_model(wide))
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert "tokenizer.json" in files
    assert not files & {"encoder.json", "vocab.bpe"}


def test_it_is_read_onto_a_mesh_as_any_other(folder, make_model):
    from jaxgpt import make_mesh

    assert same(load_pretrained(folder, make_mesh(data=2, fsdp=4)), make_model(TINY))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("model.ckpt.index", lambda raw: raw[:-1], "is not a whole index of TensorFlow"),
        ("model.ckpt.index", lambda raw: b"", "is not a whole index of TensorFlow"),
        ("model.ckpt.index", lambda raw: raw[:100] + b"\xff" * 40 + raw[140:], "is not a whole index of TensorFlow"),
        ("model.ckpt.data-00000-of-00001", lambda raw: raw[:-4], "does not lie in model.ckpt.data-00000-of-00001"),
        ("hparams.json", lambda raw: b"{}", "lacks n_vocab, n_ctx"),
        ("hparams.json", lambda raw: raw.replace(b"97", b"98"), r"misshapen: wte.weight is \[97, 32\]"),
    ],
)
def test_what_is_broken_is_one_clear_message(folder, file, change, words):
    (folder / file).write_bytes(change((folder / file).read_bytes()))
    with pytest.raises(UserError, match=words):
        load_pretrained(folder)


def test_an_index_of_any_bytes_ends_in_a_message(folder):
    whole, rng = (folder / "model.ckpt.index").read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            broken[at] = rng.integers(0, 256)
        (folder / "model.ckpt.index").write_bytes(broken)
        with contextlib.suppress(UserError):
            load_pretrained(folder)


def test_a_folder_without_the_numbers_is_refused(folder):
    shutil.move(folder / "model.ckpt.data-00000-of-00001", folder / "elsewhere")
    with pytest.raises(UserError, match="cannot be read"):
        load_pretrained(folder)
