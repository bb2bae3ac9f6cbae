import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters import load_pretrained, save_pretrained
from converters.adapt import adapt_weights
from converters.comparison import cache_bytes, cache_bytes_per_token
from converters.kv_heads import pool_kv_heads
from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, named_parameters

TINY = GPTConfig.preset("tiny")


def logits(model, tokens):
    with jax.default_matmul_precision("highest"):
        return np.asarray(model(jnp.asarray(tokens)))


def test_copied_heads_compute_the_same(make_model, tokens):
    model = make_model(dataclasses.replace(TINY, num_kv_heads=2))
    np.testing.assert_allclose(logits(adapt_weights(model, num_kv_heads=4), tokens), logits(model, tokens), atol=1e-5)


@pytest.mark.parametrize("kv_init", ["mean", "first", "svd"])
@pytest.mark.parametrize("bias", [True, False])
def test_pooling_copies_gives_back_the_original(make_model, tokens, kv_init, bias):
    model = make_model(dataclasses.replace(TINY, num_kv_heads=2, bias=bias))
    back = adapt_weights(adapt_weights(model, num_kv_heads=4), num_kv_heads=2, kv_init=kv_init)
    np.testing.assert_allclose(logits(back, tokens), logits(model, tokens), atol=2e-5)
    if kv_init != "svd":
        np.testing.assert_allclose(back.blocks[1].attn.key.kernel[...], model.blocks[1].attn.key.kernel[...], atol=1e-6)


def attention(seed=0, heads=4):
    rng, cut = np.random.default_rng(seed), {"query": heads, "key": heads, "value": heads}
    kernels = {f"{name}.kernel": jnp.asarray(rng.normal(size=(24, n, 6)), jnp.float32) for name, n in cut.items()}
    biases = {f"{name}.bias": jnp.asarray(rng.normal(size=(n, 6)), jnp.float32) for name, n in cut.items()}
    return kernels | biases | {"out.kernel": jnp.asarray(rng.normal(size=(heads, 6, 24)), jnp.float32)}


def scores_and_mixers(layer):
    """For each query head the matrix of its scores and the matrix from its values to the output, biases included."""
    wide = {
        name: np.concatenate([layer[f"{name}.kernel"], layer[f"{name}.bias"][None]])
        for name in ("query", "key", "value")
    }
    copies = wide["query"].shape[1] // wide["key"].shape[1]
    key, value = (np.repeat(wide[name], copies, axis=1) for name in ("key", "value"))
    return np.einsum("dnh,enh->nde", wide["query"], key), np.einsum("dnh,nhe->nde", value, layer["out.kernel"])


def test_svd_is_exact_where_the_heads_share_a_subspace():
    layer, rng = attention(), np.random.default_rng(1)
    for name in ("key", "value"):
        shared, mix = rng.normal(size=(25, 6)), rng.normal(size=(4, 6, 6))
        wide = np.einsum("dc,nch->dnh", shared, mix).astype(np.float32)
        layer |= {f"{name}.kernel": jnp.asarray(wide[:-1]), f"{name}.bias": jnp.asarray(wide[-1])}
    for one, other in zip(scores_and_mixers(layer), scores_and_mixers(pool_kv_heads(layer, 1, "svd"))):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_svd_keeps_more_of_the_scores_than_the_mean():
    layer = attention()
    before = scores_and_mixers(layer)
    lost = {
        init: sum(np.square(a - b).sum() for a, b in zip(before, scores_and_mixers(pool_kv_heads(layer, 2, init))))
        for init in ("mean", "first", "svd")
    }
    assert lost["svd"] < lost["mean"] < lost["first"]


def test_mean_is_the_average_of_neighbours():
    layer = attention()
    key = pool_kv_heads(layer, 2, "mean")["key.kernel"]
    np.testing.assert_allclose(key[:, 1], (layer["key.kernel"][:, 2] + layer["key.kernel"][:, 3]) / 2, atol=1e-6)
    np.testing.assert_array_equal(pool_kv_heads(layer, 2, "first")["value.bias"][1], layer["value.bias"][2])


def test_a_plain_gpt2_loads_as_every_variant_and_leaves_as_one(make_model, tmp_path, capsys):
    save_pretrained(make_model(TINY), tmp_path / "plain")
    model = load_pretrained(tmp_path / "plain", num_kv_heads=2, position="rotary", window=8)
    assert save_pretrained(model, tmp_path / "variant") == "starcoder2"
    assert load_pretrained(tmp_path / "variant").config == dataclasses.replace(
        TINY, num_kv_heads=2, position="rotary", window=8, d_mlp=128
    )
    printed = capsys.readouterr().err
    for words in ("num_kv_heads", "position", "window", "parameters", "KV cache, bytes per token"):
        assert words in printed


def test_a_smaller_vocabulary_has_no_trace_of_the_rest(make_model, tokens):
    model = make_model(TINY)
    fewer = adapt_weights(model, vocab_size=50)
    np.testing.assert_array_equal(logits(fewer, tokens % 50), logits(model, tokens % 50)[..., :50])
    assert not fewer.embed[...][50:].any()


def test_what_the_weights_can_follow_computes_the_same(make_model, tokens):
    model = make_model(dataclasses.replace(TINY, bias=False))
    other = adapt_weights(model, bias=True, tie_embeddings=False, context_length=24)
    np.testing.assert_array_equal(logits(other, tokens), logits(model, tokens))


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ({}, {"num_layers": 3}),
        ({}, {"d_model": 64}),
        ({}, {"num_heads": 8}),
        ({}, {"d_mlp": 64}),
        ({}, {"context_length": 64}),
        ({}, {"vocab_size": 98}),
        ({"bias": True}, {"bias": False}),
        ({"tie_embeddings": False}, {"tie_embeddings": True}),
        ({"position": "rotary"}, {"position": "learned"}),
        ({"num_heads": 8, "num_kv_heads": 4, "d_model": 32}, {"num_kv_heads": 3}),
        ({}, {"windo": 3}),
        ({}, {"kv_init": "median"}),
        ({"position": "rotary"}, {"num_kv_heads": 2, "kv_init": "svd"}),
    ],
)
def test_a_change_without_weights_is_refused_by_name(make_model, source, change):
    with pytest.raises(ValueError, match=list(change)[-1]):
        adapt_weights(make_model(dataclasses.replace(TINY, **source)), **change)


def test_the_cache_is_as_large_as_reported(make_model):
    config = dataclasses.replace(TINY, num_kv_heads=2, window=(8, None))
    read = partial(GPT.prefill, capacity=config.context_length)
    prompt, length = jax.ShapeDtypeStruct((1, 4), np.int32), jax.ShapeDtypeStruct((1,), np.int32)
    _, cache = jax.eval_shape(read, abstract_model(config), prompt, length)
    assert cache_bytes(config) == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache.layers))
    assert cache_bytes_per_token(config) == 2 * 2 * 2 * 8 * 4


def test_pooling_twelve_heads_to_four_saves_what_is_published():
    small = jax.eval_shape(lambda model: adapt_weights(model, num_kv_heads=4), abstract("gpt2"))
    sizes = [sum(leaf.size for leaf in named_parameters(model).values()) for model in (abstract("gpt2"), small)]
    assert sizes[0] - sizes[1] == 9_449_472


def abstract(preset):
    from jaxgpt.model.parameters import abstract_model

    return abstract_model(GPTConfig.preset(preset))


def test_an_operation_keeps_the_class(make_model):
    assert isinstance(adapt_weights(make_model(TINY), window=4), GPT)
