import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from converters import load_pretrained, save_pretrained
from jaxgpt.config import GPTConfig
from jaxgpt.inference.generate import generate
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")
ROTARY = dataclasses.replace(TINY, position="rotary", num_kv_heads=2, window=8)


def same(one, other):
    one, other = named_parameters(one), named_parameters(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def config_of(heads, size, kv_heads, **fields):
    return GPTConfig(d_model=heads * size, num_heads=heads, num_kv_heads=kv_heads(heads), **fields)


configs = st.builds(
    config_of,
    heads=st.sampled_from([2, 4, 6]),
    size=st.sampled_from([2, 4]),
    kv_heads=st.sampled_from([lambda n: n, lambda n: n // 2, lambda _: 1]),
    vocab_size=st.integers(1, 300),
    context_length=st.integers(1, 20),
    num_layers=st.integers(1, 3),
    d_mlp=st.sampled_from([1, 7, 32]),
    position=st.sampled_from(["learned", "rotary"]),
    rope_theta=st.floats(10, 1e6),
    activation=st.sampled_from(["gelu_tanh", "gelu", "relu", "silu"]),
    layer_norm_epsilon=st.floats(1e-12, 1.0),
    tie_embeddings=st.booleans(),
)


@settings(max_examples=15, deadline=None)
@given(config=configs, shard_bytes=st.sampled_from([1, 1000, 5_000_000]), window=st.sampled_from([None, 1, 5]))
def test_what_is_saved_is_loaded_to_the_last_bit(make_model, tmp_path_factory, config, shard_bytes, window):
    if config.position == "rotary":
        config = dataclasses.replace(config, window=window)
    model, folder = make_model(config), tmp_path_factory.mktemp("model") / "out"
    kind = save_pretrained(model, folder, shard_bytes=shard_bytes)
    back = load_pretrained(folder)
    learned = "gpt_bigcode" if config.kv_heads == 1 else "gpt2"
    assert kind == (learned if config.position == "learned" else "starcoder2")
    grouped_as_gpt2 = kind == "gpt2" and config.kv_heads < config.num_heads
    expected = dataclasses.replace(
        config,
        num_kv_heads=None if kind == "gpt2" else config.kv_heads,
        rope_theta=config.rope_theta if config.position == "rotary" else 10000.0,
    )
    assert back.config == expected
    assert grouped_as_gpt2 or same(back, model)
    again = tmp_path_factory.mktemp("model") / "again"  # and the other way: the same files
    save_pretrained(back, again, shard_bytes=shard_bytes)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_are_rounded_once_and_then_kept(make_model, tmp_path, dtype):
    model = make_model(ROTARY)
    save_pretrained(model, tmp_path / "one", dtype=dtype)
    back = load_pretrained(tmp_path / "one")
    np.testing.assert_array_equal(back.norm.scale[...], model.norm.scale[...].astype(dtype).astype(jnp.float32))
    save_pretrained(back, tmp_path / "two", dtype=dtype)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


VARIANTS = {
    "gpt2": TINY,
    "grouped as gpt2": dataclasses.replace(TINY, num_kv_heads=2),
    "without biases": dataclasses.replace(TINY, bias=False),
    "scaled by layer": dataclasses.replace(TINY, scale_attention_by_layer=True),
    "multi-query": dataclasses.replace(TINY, num_kv_heads=1),
    "multi-query, untied": dataclasses.replace(TINY, num_kv_heads=1, tie_embeddings=False, activation="gelu"),
    "rotary": dataclasses.replace(TINY, position="rotary", rope_theta=500.0),
    "rotary, grouped, windowed": ROTARY,
    "rotary, grouped, untied": dataclasses.replace(ROTARY, window=None, tie_embeddings=False, activation="relu"),
    "rotary, windowed": dataclasses.replace(ROTARY, window=(8, 8), num_kv_heads=None, d_mlp=48),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_computes_the_same_from_the_folder(make_model, oracle, tokens, tmp_path, variant):
    model = make_model(VARIANTS[variant])
    theirs = oracle.open(save_and_name(model, tmp_path))
    assert oracle.logit_error(model, theirs, tokens) < oracle.logit_bound


def save_and_name(model, tmp_path, **options):
    save_pretrained(model, tmp_path / "out", **options)
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("GPTBigCode", {"n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}),
        (
            "Starcoder2",
            {"max_position_embeddings": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
            | {"num_key_value_heads": 2, "intermediate_size": 80, "sliding_window": 8},
        ),
    ],
)
def test_their_other_architectures_compute_the_same_here(oracle, tokens, tmp_path, name, fields):
    theirs = oracle.model(name, vocab_size=97, **fields)
    theirs.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    assert oracle.logit_error(model, theirs, tokens) < oracle.logit_bound
    assert oracle.gradient_error(model, theirs, theirs.config.model_type, tokens) < oracle.gradient_bound


def test_a_folder_is_all_that_transformers_needs_to_go_on_as_we_do(make_model, oracle, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = make_model(dataclasses.replace(ROTARY, vocab_size=50257, context_length=96))
    theirs = oracle.open(save_and_name(model, tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("A window sees", return_tensors="pt")
    continued = theirs.generate(**prompt, max_new_tokens=64, do_sample=False, eos_token_id=None, pad_token_id=0)
    ours = generate(model, prompt["input_ids"].numpy(), 64, temperature=0)
    np.testing.assert_array_equal(continued.numpy(), ours)


def test_a_bytes_tokenizer_is_the_one_we_ship(make_model, tmp_path):
    transformers = pytest.importorskip("transformers")
    from jaxgpt.data import GPT2Tokenizer

    theirs = transformers.AutoTokenizer.from_pretrained(
        save_and_name(make_model(dataclasses.replace(TINY, vocab_size=50257)), tmp_path)
    )
    text = "First Citizen:\n\tBefore we proceed — 12345 naïve 🤖's   tokens\u3000\x00\x7f don't"
    assert theirs(text)["input_ids"] == list(GPT2Tokenizer().encode(text))
    assert theirs.decode(theirs(text)["input_ids"], clean_up_tokenization_spaces=False) == text
    assert theirs.convert_tokens_to_ids("<|endoftext|>") == theirs.eos_token_id == 50256
    assert len(theirs) == 50257


@pytest.mark.parametrize(
    ("fields", "architecture", "words"),
    [
        ({"position": "none"}, "auto", "position='none'"),
        ({"window": 4}, "auto", "gpt2: window=4"),
        ({"position": "rotary", "window": (4, None)}, "auto", r"starcoder2: window=\(4, None\)"),
        ({"position": "rotary", "scale_attention_by_layer": True}, "auto", "scale_attention_by_layer=True"),
        ({"position": "rotary"}, "gpt2", "position='rotary', but its positions are a learned table"),
        ({"num_kv_heads": 2}, "gpt_bigcode", "num_kv_heads=2"),
        ({}, "nanogpt", "activation='gelu_tanh', but its activation is the exact gelu"),
        ({"activation": "gelu"}, "llm.c", "activation='gelu', but its activation is gelu_tanh"),
        ({"activation": "gelu", "d_mlp": 33, "layer_norm_epsilon": 1e-6}, "nanogpt", "d_mlp=33.*layer_norm_epsilon"),
        ({"tie_embeddings": False}, "llm.c", "tie_embeddings=False"),
        ({}, "llama", "architecture='llama' is not one of auto"),
    ],
)
def test_what_no_architecture_can_hold_is_refused_by_field(make_model, tmp_path, fields, architecture, words):
    with pytest.raises(ValueError, match=words):
        save_pretrained(make_model(dataclasses.replace(TINY, **fields)), tmp_path / "out", architecture)
    assert not any(tmp_path.iterdir())


def test_a_failed_save_leaves_nothing(make_model, tmp_path):
    model = make_model(TINY)
    model.norm.scale[...] = model.norm.scale[...].at[3].set(1e6)
    with pytest.raises(ValueError, match="infinity in norm.scale as float16"):
        save_pretrained(model, tmp_path / "out", dtype="float16")
    with pytest.raises(ValueError, match="has no tokenizer files"):
        save_pretrained(model, tmp_path / "out", tokenizer=tmp_path)
    with pytest.raises(ValueError, match="dtype='int8' cannot be stored as gpt2"):
        save_pretrained(model, tmp_path / "out", dtype="int8")
    assert not any(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(make_model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        save_pretrained(make_model(TINY), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_tokenizer_is_copied_from_where_it_is(make_model, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    save_pretrained(make_model(TINY), tmp_path / "out", tokenizer=tmp_path)
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


def test_shards_hold_each_tensor_once(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out", shard_bytes=20_000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    held = [list(load_file(path)) for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    assert len(held) > 3
    assert sorted(itertools.chain(*held)) == sorted(index["weight_map"])


COMMON = {"model_type": "starcoder2", "vocab_size": 49152, "max_position_embeddings": 16384, "sliding_window": 4096}
COMMON |= {"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "norm_type": "layer_norm", "mlp_type": "default"}
COMMON |= {"use_bias": True, "attention_dropout": 0.1, "residual_dropout": 0.1, "embedding_dropout": 0.1}


@pytest.mark.parametrize(
    ("width", "layers", "heads", "kv_heads", "theta", "tied"),
    [
        (3072, 30, 24, 2, 999999.4420358813, True),
        (4608, 32, 36, 4, 1000000, False),
        (6144, 40, 48, 4, 100000, False),
    ],
)
@pytest.mark.parametrize("version", [4, 5])
def test_published_starcoder2_sizes_are_read(width, layers, heads, kv_heads, theta, tied, version):
    from converters.hf_config import config_from_hf

    rope = {"rope_theta": theta} if version == 4 else {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": kv_heads, "intermediate_size": 4 * width, "tie_word_embeddings": tied}
    config = config_from_hf(COMMON | sizes | rope)
    assert (config.d_model, config.num_layers, config.num_heads, config.kv_heads) == (width, layers, heads, kv_heads)
    assert (config.rope_theta, config.windows[0], config.tie_embeddings) == (theta, 4096, tied)
    assert config.position == "rotary"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_scaling", {"type": "yarn"}),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "dynamic"}),
        ("head_dim", 7),
        ("use_bias", False),
    ],
)
def test_a_starcoder2_that_we_cannot_honour_is_refused_by_name(field, value):
    from converters.hf_config import config_from_hf

    with pytest.raises(ValueError, match=f"{field}|rope_type"):
        config_from_hf(COMMON | {field: value})


def test_whoever_may_read_the_config_may_read_the_weights(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "out")
    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


def test_saving_does_not_change_the_model(make_model, tmp_path):
    model = make_model(dataclasses.replace(TINY, num_kv_heads=2, bias=False))
    before = jax.tree.map(np.asarray, model)
    save_pretrained(model, tmp_path / "out")
    assert same(before, model)
    assert model.config.num_kv_heads == 2
