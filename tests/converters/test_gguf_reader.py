"""GGUF files as a source: what we wrote comes back, and the package gguf reads the same numbers."""

import contextlib
import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from converters import load_pretrained, save_pretrained
from converters.arguments import Convert, Verify
from converters.commands import convert, verify
from converters.export import export_weights
from jaxgpt.data import GPT2Tokenizer
from jaxgpt.data.hf_tokenizer import train_bpe, write_tokenizer
from jaxgpt.errors import UserError
from jaxgpt.loading import load_tokenizer
from jaxgpt.model.parameters import named_parameters
from tests.variants import GGUF_VARIANTS, TINY

gguf = pytest.importorskip("gguf", reason="the package gguf writes these files, and is not installed")


def parameters(model):
    return {name: np.asarray(value) for name, value in named_parameters(model).items()}


def assert_equal(model, expected):
    found = parameters(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


@pytest.mark.parametrize("variant", GGUF_VARIANTS)
def test_what_we_wrote_comes_back_to_the_last_bit(make_model, tmp_path, variant):
    model = make_model(GGUF_VARIANTS[variant])
    save_pretrained(model, tmp_path / "out", "gguf")
    for source in (tmp_path / "out", tmp_path / "out" / "model.gguf"):
        found, expected = load_pretrained(source), export_weights(model, "gguf")
        assert found.config == expected.config
        assert_equal(found, parameters(expected))


@pytest.mark.parametrize(("dtype", "kind"), [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)])
def test_narrow_matrices_come_back_as_they_were_rounded(make_model, tmp_path, dtype, kind):
    model = make_model(TINY)
    save_pretrained(model, tmp_path / "out", "gguf", dtype)
    whole = ("scale", "bias", "position")  # llama.cpp keeps these in float32
    rounded = {
        name: value if name.endswith(whole) else value.astype(kind).astype(np.float32)
        for name, value in parameters(model).items()
    }
    assert_equal(load_pretrained(tmp_path / "out"), rounded)


def test_blocks_that_share_a_scale_are_the_numbers_that_the_package_gguf_makes_of_them(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", "gguf", "q8_0")
    model = load_pretrained(tmp_path / "out")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    theirs = {name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for name, tensor in tensors.items()}
    assert tensors["blk.1.ffn_up.weight"].tensor_type.name == "Q8_0"
    np.testing.assert_array_equal(np.asarray(model.blocks[1].mlp.up.kernel[...]).T, theirs["blk.1.ffn_up.weight"])
    np.testing.assert_array_equal(np.asarray(model.embed[...])[: TINY.vocab_size], theirs["token_embd.weight"])


def test_a_head_that_repeats_the_table_is_tied(make_model, tmp_path, monkeypatch):
    """As older converters of llama.cpp wrote GPT-2."""
    model = make_model(TINY)
    untied = dataclasses.replace(TINY, tie_embeddings=False)
    from converters.adapt import adapt_weights

    save_pretrained(adapt_weights(model, tie_embeddings=False), tmp_path / "same", "gguf")
    assert load_pretrained(tmp_path / "same").config.tie_embeddings
    assert_equal(load_pretrained(tmp_path / "same"), parameters(model))
    save_pretrained(make_model(untied), tmp_path / "other", "gguf")
    assert not load_pretrained(tmp_path / "other").config.tie_embeddings


def test_gpt2s_tokenizer_in_the_file_is_known_as_gpt2s(make_model, tmp_path, monkeypatch):
    save_pretrained(make_model(dataclasses.replace(TINY, vocab_size=50257)), tmp_path / "out", "gguf")
    assert isinstance(load_tokenizer(tmp_path / "out" / "model.gguf"), GPT2Tokenizer)
    assert isinstance(load_tokenizer(tmp_path / "out"), GPT2Tokenizer)


def test_another_tokenizer_in_the_file_gives_the_same_ids(make_model, tmp_path):
    tokenizer = train_bpe(["low lower lowest new newer newest wide wider widest\n"] * 20, 270)
    write_tokenizer(tokenizer, tmp_path / "tokens")
    model = make_model(dataclasses.replace(TINY, vocab_size=320))
    save_pretrained(model, tmp_path / "out", "gguf", tokenizer=tmp_path / "tokens")
    found = load_tokenizer(tmp_path / "out" / "model.gguf")
    assert found.vocab_size == tokenizer.vocab_size
    assert found.encode("newest low é").tolist() == tokenizer.encode("newest low é").tolist()
    assert found.end_of_text == tokenizer.end_of_text


def test_a_file_leaves_for_transformers_with_its_tokenizer(make_model, tmp_path):
    from jaxgpt.loading import write_source_tokenizer

    save_pretrained(make_model(dataclasses.replace(TINY, vocab_size=50257)), tmp_path / "in", "gguf")
    convert(Convert(str(tmp_path / "in" / "model.gguf"), tmp_path / "out"), write_tokenizer=write_source_tokenizer)
    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert_equal(load_pretrained(tmp_path / "out"), parameters(load_pretrained(tmp_path / "in")))


@pytest.mark.slow
def test_verify_takes_a_gguf_file_on_either_side(oracle, make_model, tmp_path, capsys):
    model = make_model(TINY)
    save_pretrained(model, tmp_path / "gguf", "gguf")
    save_pretrained(model, tmp_path / "hf")
    file = str(tmp_path / "gguf" / "model.gguf")
    with jax.default_matmul_precision("highest"):
        assert verify(Verify(file)) == 0
        assert verify(Verify(file, against=str(tmp_path / "hf"))) == 0
        assert verify(Verify(str(tmp_path / "hf"), against=file)) == 0
        save_pretrained(make_model(TINY, seed=1), tmp_path / "other", "gguf")
        assert verify(Verify(str(tmp_path / "hf"), against=str(tmp_path / "other"))) == 1


def rewritten(source, path, name="gpt2", **changes):
    """The same file with other fields, written by the package gguf."""
    reader, writer = gguf.GGUFReader(source), gguf.GGUFWriter(path, name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes:
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, *field.types[1:2])
    for key, value in changes.items():
        writer.add_key_value(key, value, gguf.GGUFValueType.get_type(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_what_is_no_model_of_ours_is_refused_by_name(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", "gguf")
    source = tmp_path / "out" / "model.gguf"
    with pytest.raises(UserError, match="architecture 'llama', not one of gpt2, starcoder, starcoder2"):
        load_pretrained(rewritten(source, tmp_path / "a.gguf", "llama"))
    with pytest.raises(UserError, match="scales its rotary positions"):
        load_pretrained(rewritten(source, tmp_path / "b.gguf", **{"gpt2.rope.scaling.type": "yarn"}))
    with pytest.raises(UserError, match="tokenizer of kind .*llama.*name another by --tokenizer"):
        load_tokenizer(rewritten(source, tmp_path / "c.gguf", **{"tokenizer.ggml.model": "llama"}))


def test_other_types_of_numbers_are_refused_by_name(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", "gguf", "q8_0")
    raw = bytearray((tmp_path / "out" / "model.gguf").read_bytes())
    name = b"blk.0.ffn_up.weight"
    at = raw.index(name) + len(name) + 4 + 2 * 8
    assert raw[at : at + 4] == b"\x08\0\0\0"
    raw[at] = 12  # Q4_K
    (tmp_path / "q4.gguf").write_bytes(raw)
    with pytest.raises(UserError, match=r"other types than float32.*such as 'blk.0.ffn_up.weight'"):
        load_pretrained(tmp_path / "q4.gguf")


def test_any_bytes_end_in_a_message(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", "gguf")
    whole, rng = (tmp_path / "out" / "model.gguf").read_bytes(), np.random.default_rng(0)
    header, broken = whole.index(b"output_norm.bias") + 100, tmp_path / "broken.gguf"
    for cut in (0, 3, 8, 24, header, len(whole) - 8):
        broken.write_bytes(whole[:cut])
        with pytest.raises(UserError):
            load_pretrained(broken)
    for _ in range(100):
        raw = bytearray(whole)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            raw[at] = rng.integers(0, 256)
        broken.write_bytes(raw)
        with contextlib.suppress(UserError):
            load_pretrained(broken)
