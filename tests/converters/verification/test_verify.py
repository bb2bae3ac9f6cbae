import dataclasses
import json

import numpy as np
import pytest

from converters import load_pretrained, save_pretrained
from converters.arguments import Convert, Verify
from converters.commands import convert, verify
from converters.verification.certificate import Certificate, Measure
from converters.verification.certify import certify
from converters.verification.greedy import greedy_full_forward, greedy_with_cache
from converters.verification.verify import verify as certificate_of
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")
ONE_LAYER = dataclasses.replace(TINY, num_layers=1)
VARIANT = dataclasses.replace(ONE_LAYER, position="rotary", num_kv_heads=2, window=8)


@pytest.fixture
def needs_torch():
    pytest.importorskip("torch", reason="torch is the oracle here, and not installed")


def test_a_folder_that_was_verified_says_so(needs_torch, make_model, tmp_path):
    save_pretrained(make_model(VARIANT), tmp_path / "model", check=certify)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| largest logit error |" in card
    assert "EXCEEDED" not in card
    assert str(tmp_path) not in card


def test_the_layer_that_differs_is_named(needs_torch, make_model, tmp_path, capsys):
    model = make_model(TINY)
    save_pretrained(model, tmp_path / "one")
    model.blocks[1].mlp.up.kernel[...] = 1.01 * model.blocks[1].mlp.up.kernel[...]
    save_pretrained(model, tmp_path / "two")
    assert verify(Verify(str(tmp_path / "one"), against=str(tmp_path / "two"), json=True)) == 1
    certificate = json.loads(capsys.readouterr().out)
    assert not certificate["holds"]
    assert certificate["first mismatch"].startswith("layer 1, by ")
    exceeded = {measure["name"] for measure in certificate["measures"] if not measure["holds"]}
    assert {"largest logit error", "KL divergence, nats per token", "largest gradient error, relative"} <= exceeded


@pytest.mark.slow
def test_a_model_without_a_folder_is_verified_as_it_would_be_written(needs_torch, make_model, tmp_path):
    model = make_model(dataclasses.replace(ONE_LAYER, num_kv_heads=2, bias=False))
    certificate = certificate_of(tmp_path, model=model)
    assert certificate.holds, certificate.to_json()
    assert certificate.against.endswith("as written for it")


def test_what_fails_verification_is_not_kept(make_model, tmp_path, monkeypatch):
    failed = Certificate("here", "there", {}, (Measure("largest logit error", 1.0, at_most=1e-4),), "layer 0")
    monkeypatch.setattr("converters.verification.certify.verify", lambda folder: failed)
    with pytest.raises(ValueError, match="computes something else from what was written: largest logit error"):
        save_pretrained(make_model(TINY), tmp_path / "model", check=certify)
    assert not any(tmp_path.iterdir())


def test_two_models_of_other_sizes_are_not_compared(needs_torch, make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "one")
    save_pretrained(make_model(dataclasses.replace(TINY, num_layers=1)), tmp_path / "two")
    with pytest.raises(ValueError, match="num_hidden_layers is 2 here and 1 there"):
        certificate_of(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_bfloat16_has_bounds_of_its_own(needs_torch, make_model, tmp_path, capsys):
    save_pretrained(make_model(ONE_LAYER), tmp_path / "model")
    assert verify(Verify(str(tmp_path / "model"), dtype="bfloat16")) == 0
    printed = capsys.readouterr().out
    assert "bfloat16" in printed
    assert "EXCEEDED" not in printed


@pytest.mark.slow
def test_bfloat16_does_not_hide_a_wrong_layer(needs_torch, make_model, tmp_path):
    model = make_model(ONE_LAYER)
    save_pretrained(model, tmp_path / "one")
    model.blocks[0].mlp.up.kernel[...] = 1.2 * model.blocks[0].mlp.up.kernel[...]
    save_pretrained(model, tmp_path / "two")
    certificate = certificate_of(tmp_path / "one", tmp_path / "two", dtype="bfloat16")
    exceeded = {measure.name for measure in certificate.measures if not measure.holds}
    assert {"KL divergence, nats per token", "largest layer output error, relative"} <= exceeded


def test_a_number_that_is_none_exceeds_its_bound():
    assert not Measure("error", float("nan"), at_most=1.0).holds
    assert not Measure("error", float("nan")).holds
    assert not Measure("agreement", 0.5, at_least=0.9).holds


def test_greedy_tokens_are_the_same_with_and_without_the_cache(make_model):
    model, prompt = make_model(VARIANT), np.array([[5, 17, 80]])
    text = np.concatenate([prompt[0], greedy_with_cache(model, prompt, 20)])
    np.testing.assert_array_equal(greedy_full_forward(model, text[None])[2:-1], text[3:])


def test_convert_changes_the_attention_and_says_what_that_does(make_model, tmp_path, capsys):
    save_pretrained(make_model(TINY), tmp_path / "plain")
    tokens = np.random.default_rng(0).integers(0, 97, 300)
    args = Convert(str(tmp_path / "plain"), tmp_path / "new", num_kv_heads=1, position="rotary", data=tmp_path)
    convert(args, read_tokens=lambda _: tokens)
    printed = capsys.readouterr().out
    for words in ("num_kv_heads", "KV cache, bytes per token", "loss on 256 tokens", "starcoder2", "tokenizer is not"):
        assert words in printed
    assert load_pretrained(tmp_path / "new").config.kv_heads == 1
    assert "`plain`, num_kv_heads=1, position=rotary" in (tmp_path / "new" / "README.md").read_text()


def test_convert_without_changes_keeps_every_bit_and_the_tokenizer(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "one")
    (tmp_path / "one" / "tokenizer.json").write_text('{"mine": 1}')
    convert(Convert(str(tmp_path / "one"), tmp_path / "two"))
    one, two = (named_parameters(load_pretrained(tmp_path / name)) for name in ("one", "two"))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert (tmp_path / "two" / "tokenizer.json").read_text() == '{"mine": 1}'


def test_convert_that_fails_writes_nothing(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "one")
    for change in ({"num_kv_heads": 3}, {"position": "none"}, {"window": 3}, {"data": tmp_path}):
        with pytest.raises(ValueError, match=next(iter(change))):
            convert(Convert(str(tmp_path / "one"), tmp_path / "two", **change))
    with pytest.raises(ValueError, match="fewer than one context"):
        convert(Convert(str(tmp_path / "one"), tmp_path / "two", data=tmp_path), read_tokens=lambda _: np.zeros(9))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_what_is_compared_against_is_loaded_whatever_it_is(needs_torch, make_model, tmp_path):
    """A file, a folder of our own layout, a checkpoint of llm.c: none has a config.json that transformers opens."""
    model = make_model(ONE_LAYER)
    save_pretrained(model, tmp_path / "one")
    model.blocks[0].mlp.up.kernel[...] = 1.01 * model.blocks[0].mlp.up.kernel[...]
    for kind in ("jaxgpt", "llm.c"):
        save_pretrained(model, tmp_path / kind, kind)
        assert not certificate_of(tmp_path / "one", tmp_path / kind).holds, kind
        certificate = certificate_of(tmp_path / kind, tmp_path / kind)
        assert certificate.holds, certificate.to_json()


@pytest.mark.parametrize("against", ["folder", "llama", "missing", "empty model", "text.txt"])
def test_what_cannot_be_compared_against_is_refused(needs_torch, make_model, tmp_path, against):
    save_pretrained(make_model(ONE_LAYER), tmp_path / "one")
    (tmp_path / "text.txt").write_text("words")
    configs = {"folder": None, "llama": '{"model_type": "llama"}', "empty model": '{"model_type": "gpt2"}'}
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
    (tmp_path / "llama" / "model.safetensors").write_bytes((tmp_path / "one" / "model.safetensors").read_bytes())
    with pytest.raises(UserError):
        certificate_of(tmp_path / "one", tmp_path / against)


def test_models_of_another_width_or_context_are_not_taken_for_each_other(needs_torch, make_model, tmp_path):
    save_pretrained(make_model(ONE_LAYER), tmp_path / "one")
    save_pretrained(make_model(dataclasses.replace(ONE_LAYER, d_model=64)), tmp_path / "wide")
    save_pretrained(make_model(dataclasses.replace(ONE_LAYER, context_length=8)), tmp_path / "short")
    with pytest.raises(UserError, match="hidden_size is 32 here and 64 there"):
        certificate_of(tmp_path / "one", tmp_path / "wide")
    with pytest.raises(UserError, match=r"wpe.weight is \(32, 32\) here and \(8, 32\) there"):
        certificate_of(tmp_path / "one", tmp_path / "short")
