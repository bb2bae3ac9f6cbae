import json
import subprocess
import sys

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from converters import load_pretrained
from converters.architectures import GPT2, sizes
from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import abstract_model, named_parameters

CONFIG = {"model_type": "gpt2", "vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
OURS = GPTConfig(vocab_size=97, context_length=32, num_layers=2, num_heads=4, d_model=32)


def random_tensors(config=OURS):
    rng = np.random.default_rng(0)
    rows = GPT2.rows(config, named_parameters(abstract_model(config)))
    return {row.theirs: rng.normal(size=row.layout.shape(sizes(config))).astype(np.float32) for row in rows}


def write(folder, tensors, **fields):
    (folder / "config.json").write_text(json.dumps(CONFIG | fields))
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_shards(folder, tensors):
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[:10], "model-2.safetensors": names[10:]}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def same(one, other):
    one, other = named_parameters(one), named_parameters(other)
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, random_tensors())


def test_a_conv1d_column_becomes_the_head_it_belongs_to(folder):
    fused, model = random_tensors()["h.1.attn.c_attn.weight"], load_pretrained(folder)
    np.testing.assert_array_equal(model.blocks[1].attn.key.kernel[...][:, 2, 3], fused[:, 32 + 2 * 8 + 3])


def test_padding_rows_are_zero(folder):
    embed = load_pretrained(folder).embed[...]
    assert embed.shape == (128, 32)
    assert not embed[97:].any()


def test_names_may_have_the_prefix_and_buffers_may_lie_about(folder, tmp_path_factory):
    tensors = {f"transformer.{name}": tensor for name, tensor in random_tensors().items()}
    tensors["transformer.h.0.attn.bias"] = np.tril(np.ones((1, 1, 32, 32), bool))
    tensors["transformer.h.0.attn.masked_bias"] = np.array(-1e4, np.float32)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].copy()
    other = write(tmp_path_factory.mktemp("prefixed"), tensors)
    assert same(load_pretrained(folder), load_pretrained(other))


def test_shards_are_one_model(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("shards")
    write_shards(other, random_tensors())
    assert same(load_pretrained(folder), load_pretrained(other))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_any_float_becomes_float32_exactly(tmp_path, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in random_tensors().items()}
    model = load_pretrained(write(tmp_path, tensors))
    assert model.norm.scale[...].dtype == jnp.float32
    np.testing.assert_array_equal(model.norm.scale[...], tensors["ln_f.weight"].astype(np.float32))


def test_dtype_is_what_the_model_computes_in(folder):
    model = load_pretrained(folder, dtype=jnp.bfloat16)
    assert model.config.dtype == "bfloat16"
    assert model.embed[...].dtype == jnp.float32


def test_a_mesh_places_every_parameter_as_training_does_and_changes_no_number(folder):
    script = f"""
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from converters import load_pretrained
from jaxgpt.model.parameters import named_parameters
mesh = jax.make_mesh((1, 8), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
from jaxgpt.parallel.sharding import shard
trained = named_parameters(shard(load_pretrained({str(folder)!r}), mesh))
cut = named_parameters(load_pretrained({str(folder)!r}, mesh=mesh))
for name, whole in named_parameters(load_pretrained({str(folder)!r})).items():
    np.testing.assert_array_equal(cut[name], whole)
    assert cut[name].sharding == trained[name].sharding, name
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_problem_is_listed(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["ln_f.bias"], tensors["h.0.mlp.c_fc.weight"]
    tensors["wpe.weight"] = np.zeros((7, 32), np.float32)
    tensors["h.9.ln_1.weight"] = np.zeros((2, 32), np.float32)
    tensors["h.1.ln_1.bias"] = np.zeros(32, np.int32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit") as error:
        load_pretrained(folder)
    for words in (
        "missing: h.0.mlp.c_fc.weight [32, 128]",
        "missing: ln_f.bias",
        "misshapen: wpe.weight is [7, 32] but has to be [32, 32]",
        "misshapen: h.1.ln_1.bias is not of float64",
        "unexpected: h.9.ln_1.weight [2, 32]",
    ):
        assert words in str(error.value)


def test_a_head_that_differs_from_the_table_it_is_tied_to_is_refused(folder):
    tensors = random_tensors()
    write(folder, tensors | {"lm_head.weight": tensors["wte.weight"] + 1})
    with pytest.raises(ValueError, match="unexpected: lm_head.weight"):
        load_pretrained(folder)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_weight_that_is_no_number_is_refused_by_name(folder, bad):
    tensors = random_tensors()
    tensors["h.1.mlp.c_fc.weight"][3, 4] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in h\.1\.mlp\.c_fc\.weight:"):
        load_pretrained(write(folder, tensors))
    assert not jnp.isfinite(load_pretrained(folder, allow_nonfinite=True).blocks[1].mlp.up.kernel[...]).all()


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "c:\\b", ""])
def test_a_shard_outside_the_folder_is_refused(folder, name):
    (folder / "model.safetensors").unlink()
    index = write_shards(folder, random_tensors())
    index["weight_map"]["wte.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="outside its folder"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("file", "rest", "words"),
    [
        ("model-2.safetensors", None, "is missing, though"),
        ("model-2.safetensors", {}, "names tensors that its files do not hold: "),
        ("model.safetensors.index.json", "{}", "has no weight_map"),
        ("model.safetensors.index.json", "[]", "not a JSON object"),
        ("config.json", "{", "cannot be read as JSON"),
        ("config.json", None, "cannot be read"),
    ],
)
def test_a_broken_folder_is_one_clear_message(tmp_path, file, rest, words):
    write_shards(tmp_path, random_tensors())
    (tmp_path / file).unlink()
    if isinstance(rest, str):
        (tmp_path / file).write_text(rest)
    elif rest is not None:
        save_file(rest, tmp_path / file)
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path)


def truncate(raw):
    return raw[:-5]


def grow(raw):
    return raw + b"12345"


def lie_about_the_header(raw):
    return (10**12).to_bytes(8, "little") + raw[8:]


def lie_about_a_shape(raw):
    return raw.replace(b'"shape":[97,32]', b'"shape":[98,32]')


def lie_about_an_offset(raw):
    return raw.replace(b'"data_offsets":[0,', b'"data_offsets":[4,')


@pytest.mark.parametrize(
    "harm", [truncate, grow, lie_about_the_header, lie_about_a_shape, lie_about_an_offset, lambda raw: b""]
)
def test_a_file_that_lies_about_itself_is_refused(folder, harm):
    raw = (folder / "model.safetensors").read_bytes()
    harmed = harm(raw)
    assert harmed != raw
    (folder / "model.safetensors").write_bytes(harmed)
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "llama"),
        ("model_type", ["gpt2"]),
        ("add_cross_attention", True),
        ("scale_attn_weights", "no"),
        ("per_layer_config", {"0": {"n_head": 2}}),
        ("quantization_config", {"bits": 4}),
        ("activation_function", "mish"),
        ("n_head", 5),
        ("n_layer", "12"),
        ("n_inner", -1),
        ("layer_norm_epsilon", "small"),
        ("layer_norm_epsilon", 10**400),
        ("n_layer", 10**9),
        ("n_layer", 50),
        ("n_embd", 4 * 10**9 + 1),
        ("tie_word_embeddings", "yes"),
    ],
)
def test_a_config_that_we_cannot_honour_is_refused_by_name(folder, field, value):
    write(folder, random_tensors(), **{field: value})
    ours = {"n_head": "num_heads", "n_layer": "num_layers", "n_inner": "d_mlp", "n_embd": "d_model"}
    ours |= {"tie_word_embeddings": "tie_embeddings", "activation_function": "activation"}
    with pytest.raises(ValueError, match=ours.get(field, field)):
        load_pretrained(folder)


def test_a_change_that_the_weights_forbid_is_refused(folder):
    with pytest.raises(ValueError, match="num_layers=3 cannot come from weights with num_layers=2"):
        load_pretrained(folder, num_layers=3)
    assert load_pretrained(folder, window=8).config.window == 8


@pytest.mark.parametrize("source", ["no/such-model", "nothing here", "/no/such/folder"])
def test_a_source_that_is_nowhere_is_one_clear_message(source):
    with pytest.raises(ValueError, match="is no path on this machine|does not exist"):
        load_pretrained(source)
