import dataclasses
import json
import pickle

import ml_dtypes
import numpy as np
import pytest

from converters import load_pretrained, save_pretrained
from converters.architectures import NANOGPT
from converters.verification.certify import certify
from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")
EXACT = dataclasses.replace(TINY, activation="gelu")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch reads and writes these files, and is not installed")


def same(one, other):
    one, other = named_parameters(one), named_parameters(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def nanogpt_model(torch, checkpoint):
    """nanoGPT's forward pass in plain torch, float64, from the tensors of a checkpoint."""
    weights = {name: tensor.double() for name, tensor in checkpoint["model"].items()}
    args = checkpoint["model_args"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def linear(x, name):
        return torch.nn.functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def attention(x, name):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, args["n_head"], -1).transpose(1, 2)
            for part in linear(x, f"{name}.c_attn").split(width, dim=2)
        )
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(y.transpose(1, 2).reshape(batch, length, width), f"{name}.c_proj")

    def forward(tokens):
        x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][: tokens.shape[1]]
        for layer in range(args["n_layer"]):
            block = f"transformer.h.{layer}"
            x = x + attention(norm(x, f"{block}.ln_1"), f"{block}.attn")
            hidden = torch.nn.functional.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
            x = x + linear(hidden, f"{block}.mlp.c_proj")
        return norm(x, "transformer.ln_f") @ weights["lm_head.weight"].T

    return forward


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt_computes_the_same_from_what_we_write(torch, oracle, make_model, tokens, tmp_path, bias):
    model = make_model(dataclasses.replace(EXACT, bias=bias, num_kv_heads=2))
    save_pretrained(model, tmp_path / "out", "nanogpt")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    logits = nanogpt_model(torch, checkpoint)(torch.from_numpy(tokens)).numpy()
    error = oracle.logit_error_of(model, logits, tokens)
    assert error < oracle.logit_bound
    assert oracle.logit_error_of(load_pretrained(tmp_path / "out"), logits, tokens) < oracle.logit_bound
    assert checkpoint["model_args"]["bias"] is bias
    parameters = [
        torch.nn.Parameter(tensor) for name, tensor in checkpoint["model"].items() if name != "lm_head.weight"
    ]
    groups = [[p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]]
    torch.optim.AdamW([{"params": group} for group in groups]).load_state_dict(checkpoint["optimizer"])


def test_a_compiled_and_padded_nanogpt_loads(torch, make_model, tmp_path):
    config = dataclasses.replace(EXACT, vocab_size=50257, d_model=8, num_layers=1)
    model = make_model(config)
    save_pretrained(model, tmp_path / "out", "nanogpt")
    checkpoint = torch.load(tmp_path / "out" / "ckpt.pt", weights_only=True)
    for name in ("transformer.wte.weight", "lm_head.weight"):
        checkpoint["model"][name] = torch.cat([checkpoint["model"][name], torch.ones(47, 8)])
    checkpoint["model"] = {f"_orig_mod.{name}": tensor for name, tensor in checkpoint["model"].items()}
    checkpoint["model_args"]["vocab_size"] = 50304
    torch.save(checkpoint, tmp_path / "padded.pt")
    assert same(load_pretrained(tmp_path / "padded.pt"), model)
    assert load_pretrained(tmp_path / "out" / "ckpt.pt").config == config


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_llmc_files_come_back_to_the_last_bit(make_model, tmp_path, dtype):
    model = make_model(dataclasses.replace(TINY, vocab_size=130))
    save_pretrained(model, tmp_path / "one", "llm.c", dtype)
    back = load_pretrained(tmp_path / "one")
    assert back.config == model.config
    expected = {name: np.asarray(value.astype(dtype)) for name, value in named_parameters(model).items()}
    assert all(np.array_equal(value, expected[name]) for name, value in named_parameters(back).items())
    save_pretrained(back, tmp_path / "two", "llm.c", dtype)
    assert (tmp_path / "one" / "model.bin").read_bytes() == (tmp_path / "two" / "model.bin").read_bytes()


def test_an_llmc_file_is_laid_out_as_llmc_reads_it(make_model, tmp_path):
    model = make_model(TINY)
    save_pretrained(model, tmp_path / "out", "llm.c")
    raw = np.fromfile(tmp_path / "out" / "model.bin", np.int32)
    assert list(raw[:8]) == [20240326, 3, 32, 97, 2, 4, 32, 128]
    numbers, at = raw[256:].view(np.float32), {}
    start = 0
    sizes = {"wte": 128 * 32, "wpe": 32 * 32, "ln1w": 64, "ln1b": 64, "qkvw": 2 * 96 * 32, "qkvb": 2 * 96}
    for name, size in sizes.items():
        at[name] = numbers[start : start + size]
        start += size
    np.testing.assert_array_equal(at["wte"].reshape(128, 32), model.embed[...])
    value = at["qkvw"].reshape(2, 3, 4, 8, 32)[1, 2]  # of layer 1, the value's heads, outputs first
    np.testing.assert_array_equal(value.transpose(2, 0, 1), model.blocks[1].attn.value.kernel[...])
    np.testing.assert_array_equal(at["qkvb"].reshape(2, 3, 4, 8)[0, 1], model.blocks[0].attn.key.bias[...])


@pytest.mark.parametrize(
    ("kind", "fields", "use"),
    [
        ("nanogpt", {"activation": "gelu"}, "python train.py --init_from=resume --out_dir=FOLDER"),
        pytest.param("llm.c", {}, "./train_gpt2cu -e FOLDER/model.bin", marks=pytest.mark.slow),
    ],
    ids=["nanogpt", "llm.c"],
)
def test_a_card_beside_the_file_says_what_it_is_and_what_opens_it(torch, make_model, tmp_path, kind, fields, use):
    model = make_model(dataclasses.replace(TINY, **fields))
    save_pretrained(model, tmp_path / "out", kind, origin="a trained run", check=certify)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"library_name: {kind}" in card
    assert "Weights from: a trained run." in card
    assert use in card
    assert "AutoModel" not in card
    assert "| largest logit error |" in card
    assert same(load_pretrained(tmp_path / "out"), model)


def shorten(raw):
    return raw[:-4]


def lengthen(raw):
    return raw + b"1234"


def change_version(raw):
    return raw[:4] + b"\x02\0\0\0" + raw[8:]


def widen(raw):
    return raw[:24] + b"\x40\0\0\0" + raw[28:]


def pad_otherwise(raw):
    return raw[:28] + b"\x00\x01\0\0" + raw[32:]


@pytest.mark.parametrize("harm", [shorten, lengthen, change_version, widen, pad_otherwise, lambda raw: raw[:40]])
def test_a_broken_llmc_file_is_one_clear_message(make_model, tmp_path, harm):
    save_pretrained(make_model(TINY), tmp_path / "out", "llm.c")
    path = tmp_path / "out" / "model.bin"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(ValueError, match="model.bin"):
        load_pretrained(path)


def pickled(torch, make_model, folder, legacy=False, shards=False):
    save_pretrained(make_model(TINY), folder / "safe")
    from safetensors.torch import load_file

    state = load_file(folder / "safe" / "model.safetensors")
    (folder / "pickle").mkdir()
    (folder / "pickle" / "config.json").write_text((folder / "safe" / "config.json").read_text())
    names = sorted(state)
    files = (
        {"pytorch_model-1.bin": names[:9], "pytorch_model-2.bin": names[9:]} if shards else {"pytorch_model.bin": names}
    )
    for file, held in files.items():
        part = {name: state[name] for name in held}
        torch.save(part, folder / "pickle" / file, _use_new_zipfile_serialization=not legacy)
    if shards:
        index = {"weight_map": {name: file for file, held in files.items() for name in held}}
        (folder / "pickle" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder / "pickle"


@pytest.mark.parametrize("options", [{}, {"legacy": True}, {"shards": True}], ids=["zip", "legacy", "shards"])
def test_pickled_weights_are_the_same_weights(torch, make_model, tmp_path, options):
    folder = pickled(torch, make_model, tmp_path, **options)
    assert same(load_pretrained(folder), make_model(TINY))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_pickles_are_read_exactly(torch, make_model, tmp_path, dtype):
    folder = pickled(torch, make_model, tmp_path)
    state = torch.load(folder / "pytorch_model.bin")
    torch.save({name: value.to(getattr(torch, dtype)) for name, value in state.items()}, folder / "pytorch_model.bin")
    expected = np.asarray(make_model(TINY).norm.scale[...]).astype(getattr(ml_dtypes, dtype, np.float16))
    np.testing.assert_array_equal(load_pretrained(folder).norm.scale[...], expected.astype(np.float32))


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("where", ["pytorch_model.bin", "ckpt.pt"])
@pytest.mark.parametrize("form", ["zip", "plain"])
def test_a_pickle_that_would_run_code_runs_nothing(torch, make_model, tmp_path, where, form):
    folder = pickled(torch, make_model, tmp_path)
    evil = {"wte.weight": Malice(tmp_path / "written by the pickle")}
    if form == "zip":
        torch.save(evil, folder / where)
    else:
        (folder / where).write_bytes(pickle.dumps(evil, protocol=2))
    with pytest.raises(ValueError, match=r"refused: it asks to run \S+open; nothing in it was run"):
        load_pretrained(folder / where)
    assert not (tmp_path / "written by the pickle").exists()


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 and no more", b"\x80\x02not a pickle", b"text\n"])
def test_a_broken_pickle_is_one_clear_message(torch, make_model, tmp_path, raw):
    folder = pickled(torch, make_model, tmp_path)
    for name in ("pytorch_model.bin", "ckpt.pt"):
        (folder / name).write_bytes(raw)
        with pytest.raises(ValueError, match=f"{name} is (not a whole PyTorch file|refused)"):
            load_pretrained(folder / name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"wte": [1, 2]}, "no model and model_args"),
        ([1, 2], "no model and model_args"),
        ({"model": {}, "model_args": {"n_layer": 1}}, "lacks, or has beyond nanoGPT's, bias, block_size"),
        ({"model": 3, "model_args": {}}, "lacks"),
    ],
)
def test_a_checkpoint_of_something_else_is_one_clear_message(torch, tmp_path, content, words):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path)


def test_without_torch_a_pickle_says_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    monkeypatch.setattr("converters.formats.torch_files.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs torch: pip install 'jaxgpt\[torch\]', or get safetensors"):
        load_pretrained(tmp_path)


def test_a_file_of_another_kind_is_one_clear_message(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"HDF")
    with pytest.raises(ValueError, match="no weights file that is known: .safetensors, .bin, .pt"):
        load_pretrained(tmp_path / "model.h5")


def test_one_safetensors_file_is_a_source(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out")
    assert same(load_pretrained(tmp_path / "out" / "model.safetensors"), make_model(TINY))


def test_every_format_names_the_same_tensors():
    from converters.formats.llmc import ORDER

    assert sorted(ORDER) == sorted(theirs for theirs, _, _ in NANOGPT.table if theirs != "lm_head.weight")
