"""GGUF files: read back by the package gguf, and run by llama.cpp in the slow suite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import load_pretrained, save_pretrained
from converters.arguments import Convert
from converters.commands import convert
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from tests.variants import GGUF_VARIANTS, TINY

gguf = pytest.importorskip("gguf", reason="the package gguf writes these files, and is not installed")

ARCHITECTURES = {"multi-query": "starcoder", "grouped": "starcoder", "rotary": "starcoder2"}


def read(folder):
    found = gguf.GGUFReader(folder / "model.gguf")
    return {name: field.contents() for name, field in found.fields.items()}, {t.name: t for t in found.tensors}


@pytest.mark.parametrize("variant", GGUF_VARIANTS)
def test_a_file_says_what_the_model_is(make_model, tmp_path, variant):
    config = GGUF_VARIANTS[variant]
    assert save_pretrained(make_model(config), tmp_path / "out", "gguf") == "gguf"
    fields, tensors = read(tmp_path / "out")
    name = ARCHITECTURES.get(variant, "gpt2")
    assert fields["general.architecture"] == name
    sizes = {"block_count": 2, "context_length": 32, "embedding_length": 32, "attention.head_count": 4}
    sizes |= {"attention.head_count_kv": config.kv_heads, "feed_forward_length": config.mlp_width}
    assert {key: fields[f"{name}.{key}"] for key in sizes} == sizes
    assert fields[f"{name}.attention.layer_norm_epsilon"] == pytest.approx(config.layer_norm_epsilon)
    assert ("output.weight" in tensors) is not config.tie_embeddings
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.gguf"]


@pytest.mark.parametrize(("dtype", "kind"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0")])
def test_matrices_are_of_the_type_and_vectors_of_float32(make_model, tmp_path, dtype, kind):
    model = make_model(TINY)
    save_pretrained(model, tmp_path / "out", "gguf", dtype)
    _, tensors = read(tmp_path / "out")
    assert tensors["blk.1.ffn_up.weight"].tensor_type.name == kind
    assert tensors["blk.1.ffn_up.bias"].tensor_type.name == tensors["position_embd.weight"].tensor_type.name == "F32"
    held = gguf.quants.dequantize(tensors["blk.1.ffn_up.weight"].data, tensors["blk.1.ffn_up.weight"].tensor_type)
    ours = np.asarray(model.blocks[1].mlp.up.kernel[...]).T
    np.testing.assert_allclose(held, ours, atol=0 if kind == "F32" else 1e-2 * np.abs(ours).max())


def test_gpt2s_tokens_and_merges_are_in_the_file(make_model, tmp_path):
    save_pretrained(make_model(dataclasses.replace(TINY, vocab_size=50257)), tmp_path / "out", "gguf")
    fields, _ = read(tmp_path / "out")
    assert (fields["tokenizer.ggml.model"], fields["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert len(fields["tokenizer.ggml.tokens"]) == 50257
    assert len(fields["tokenizer.ggml.merges"]) == 50000
    assert fields["tokenizer.ggml.tokens"][50256] == "<|endoftext|>"
    assert fields["tokenizer.ggml.token_type"][50255:] == [1, 3]
    assert fields["tokenizer.ggml.eos_token_id"] == 50256


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"window": 8}, "window=8, but it has no window"),
        ({"position": "rotary", "window": 8}, "window=8, but it has no window"),
        ({"position": "none"}, "position='none', but its positions are learned or rotary"),
        ({"activation": "gelu"}, "activation='gelu', but its activation is gelu_tanh"),
        ({"scale_attention_by_layer": True}, "scale_attention_by_layer=True"),
    ],
)
def test_what_llamacpp_would_compute_otherwise_is_refused_by_name(make_model, tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        save_pretrained(make_model(dataclasses.replace(TINY, **fields)), tmp_path / "out", "gguf")
    assert not any(tmp_path.iterdir())


def test_q8_is_for_gguf_alone_and_gguf_is_not_verified_here(make_model, tmp_path):
    with pytest.raises(UserError, match="dtype='q8_0' cannot be stored as gpt2"):
        save_pretrained(make_model(TINY), tmp_path / "out", dtype="q8_0")
    with pytest.raises(UserError, match="--verify compares folders of transformers"):
        convert(Convert("x", tmp_path / "out", architecture="gguf", verify=True))


def llamacpp(path):
    """A server of llama.cpp in this process, with one slot and float32 attention."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is the judge here, and not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.warmup = 128, 1, 2, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(params)


WIDE = GPTConfig(vocab_size=50257, context_length=128, num_layers=3, num_heads=4, d_model=64)
JUDGED = {
    "gpt2": WIDE,
    "untied": dataclasses.replace(WIDE, tie_embeddings=False, d_mlp=96),
    "multi-query": dataclasses.replace(WIDE, num_kv_heads=1),
    "grouped": dataclasses.replace(WIDE, num_kv_heads=2),
    "rotary": dataclasses.replace(WIDE, position="rotary", num_kv_heads=2, rope_theta=500.0),
}


def log_probabilities_apart(model, answer, prompt):
    """The largest difference of a log-probability that llama.cpp gave, and the standard deviation of our logits."""
    theirs = [entry["id"] for entry in answer]
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(model(jnp.asarray([[*prompt, *theirs]], jnp.int32)))[0, len(prompt) - 1 : -1]
    expected = np.asarray(jax.nn.log_softmax(logits))
    errors = [
        abs(likely["logprob"] - expected[at, likely["id"]])
        for at, entry in enumerate(answer)
        for likely in entry["top_logprobs"]
    ]
    return max(errors), logits.std()


def ask(path, prompt):
    request = {"prompt": prompt, "max_tokens": 64, "temperature": 0, "logprobs": 5, "ignore_eos": True}
    return llamacpp(path).handle_completions(request)["choices"][0]["logprobs"]["content"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", JUDGED)
def test_llamacpp_continues_as_we_do(make_model, tmp_path, variant):
    from jaxgpt.inference.generate import generate

    model = make_model(JUDGED[variant])
    save_pretrained(model, tmp_path / "out", "gguf")
    prompt = np.random.default_rng(0).integers(0, 50256, 16).tolist()
    answer = ask(tmp_path / "out" / "model.gguf", prompt)
    with jax.default_matmul_precision("highest"):
        ours = generate(model, [prompt], 64, temperature=0)
    np.testing.assert_array_equal([entry["id"] for entry in answer], np.asarray(ours)[0, 16:])
    error, spread = log_probabilities_apart(model, answer, prompt)
    print(f"\n{variant}: largest error of a log-probability {error:.1e}, standard deviation of logits {spread:.1f}")
    assert error < 2e-3 * spread  # llama.cpp looks the GELU up in a table of float16


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("f32", 2e-3), ("f16", 1e-2), ("bf16", 5e-2), ("q8_0", 1e-1)])
def test_from_the_same_file_llamacpp_and_we_compute_the_same(make_model, tmp_path, dtype, bound):
    """Narrow types differ: llama.cpp rounds what enters a product to the type of its matrix, too."""
    save_pretrained(make_model(WIDE), tmp_path / "out", "gguf", dtype)
    prompt = np.random.default_rng(0).integers(0, 50256, 16).tolist()
    answer = ask(tmp_path / "out" / "model.gguf", prompt)
    error, spread = log_probabilities_apart(load_pretrained(tmp_path / "out"), answer, prompt)
    print(f"\n{dtype}: largest error of a log-probability {error:.1e}, standard deviation of logits {spread:.1f}")
    assert error < bound * spread
