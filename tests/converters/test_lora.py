"""LoRA adapters, made by PEFT: what is loaded is what PEFT merges."""

import json

import numpy as np
import pytest

from converters import load_pretrained
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import named_parameters

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, about what it imports and about Conv1D

GPT2 = {"vocab_size": 97, "n_positions": 32, "n_layer": 2, "n_head": 4, "n_embd": 32}
STARCODER2 = {"vocab_size": 97, "max_position_embeddings": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
STARCODER2 |= {"hidden_size": 32, "num_key_value_heads": 2, "intermediate_size": 80}


def make_adapter(oracle, folder, name="GPT2", fields=GPT2, **options):
    """A random adapter in `folder`, its base beside it, and the model that PEFT makes of the two."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    base = oracle.model(name, **fields)
    base.save_pretrained(folder / "base")
    options = {"r": 4, "lora_alpha": 12, "target_modules": ["c_attn", "c_proj", "c_fc"]} | options
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter, weight in model.named_parameters():
            if "lora_" in parameter or (options.get("bias") == "all" and weight.requires_grad):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder / "adapter")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "base")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return model.merge_and_unload()


OPTIONS = {
    "GPT-2": {},
    "rslora": {"use_rslora": True},
    "patterns": {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"c_fc": 20}},
    "biases": {"bias": "all"},
    "one layer": {"layers_to_transform": [1]},
    "the table": {"target_modules": ["c_attn", "wte"]},
    "a norm replaced": {"modules_to_save": ["ln_f"]},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_an_adapter_is_merged_as_peft_merges_it(oracle, tmp_path, options):
    merged = make_adapter(oracle, tmp_path, **OPTIONS[options])
    merged.save_pretrained(tmp_path / "merged")
    ours, theirs = (named_parameters(load_pretrained(tmp_path / name)) for name in ("adapter", "merged"))
    base = named_parameters(load_pretrained(tmp_path / "base"))
    assert any(not np.allclose(base[name], theirs[name], atol=1e-3) for name in base)
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], atol=2e-6, err_msg=name)


def test_an_adapter_of_linear_layers_is_merged_as_peft_merges_it(oracle, tokens, tmp_path):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"]
    merged = make_adapter(oracle, tmp_path, "Starcoder2", STARCODER2, target_modules=targets)
    assert oracle.logit_error(load_pretrained(tmp_path / "adapter"), merged, tokens) < oracle.logit_bound


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "IA3"}, "of kind 'IA3', and only LoRA"),
        ({"use_dora": True}, "of kind DoRA"),
        ({"base_model_name_or_path": None}, "does not name base_model_name_or_path"),
        ({"base_model_name_or_path": "/nowhere at all"}, "base model of the adapter .* cannot be read"),
        ({"lora_alpha": "much"}, "gives 'much' for lora_alpha"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused_with_the_reason(oracle, tmp_path, change, words):
    make_adapter(oracle, tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        load_pretrained(tmp_path / "adapter")


def test_an_adapter_of_another_width_is_refused(oracle, tmp_path):
    make_adapter(oracle, tmp_path)
    oracle.model("GPT2", **GPT2 | {"n_embd": 64}).save_pretrained(tmp_path / "base")
    with pytest.raises(UserError, match="do not fit a weight"):
        load_pretrained(tmp_path / "adapter")


def test_an_adapter_beside_a_model_is_not_guessed_at(oracle, tmp_path):
    make_adapter(oracle, tmp_path)
    (tmp_path / "adapter" / "config.json").write_text((tmp_path / "base" / "config.json").read_text())
    with pytest.raises(UserError, match="holds both adapter_config.json and config.json"):
        load_pretrained(tmp_path / "adapter")
