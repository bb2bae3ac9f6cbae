"""Files that others write, from a model of transformers: what we load from them computes what that model does."""

import json

import numpy as np
import pytest

from converters import load_pretrained

FIELDS = {"vocab_size": 120, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4}
LLMC_MAGIC, LLMC_VERSION = 20240326, 3
LLMC_ORDER = ("ln_1.w", "ln_1.b", "attn.c_attn.w", "attn.c_attn.b", "attn.c_proj.w", "attn.c_proj.b")
LLMC_ORDER += ("ln_2.w", "ln_2.b", "mlp.c_fc.w", "mlp.c_fc.b", "mlp.c_proj.w", "mlp.c_proj.b")


def write_llmc(path, model):
    """As llm.c exports: each kind of tensor for all layers in a row, matrices as (out, in), the vocabulary padded."""
    weights = {name: weight.detach().numpy() for name, weight in model.transformer.named_parameters()}
    rows, layers = FIELDS["vocab_size"], FIELDS["n_layer"]
    padded = -(-rows // 128) * 128
    header = np.zeros(256, np.int32)
    header[:8] = (
        LLMC_MAGIC,
        LLMC_VERSION,
        FIELDS["n_positions"],
        rows,
        layers,
        FIELDS["n_head"],
        FIELDS["n_embd"],
        padded,
    )
    tensors = [np.pad(weights["wte.weight"], ((0, padded - rows), (0, 0))), weights["wpe.weight"]]
    for kind in LLMC_ORDER:
        name = kind.replace(".w", ".weight").replace(".b", ".bias")
        tensors += [weights[f"h.{layer}.{name}"].T for layer in range(layers)]
    tensors += [weights["ln_f.weight"], weights["ln_f.bias"]]
    path.write_bytes(header.tobytes() + b"".join(np.ascontiguousarray(x, np.float32).tobytes() for x in tensors))


def write_pickle(folder, model):
    """As transformers did before safetensors."""
    import torch

    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))


@pytest.mark.parametrize("kind", ["llm.c", "pickle"])
def test_a_file_of_another_library_computes_what_the_model_it_was_made_from_computes(oracle, tmp_path, kind):
    theirs = oracle.model("GPT2", **FIELDS)
    source = tmp_path / ("model.bin" if kind == "llm.c" else "folder")
    (write_llmc if kind == "llm.c" else write_pickle)(source, theirs)
    tokens = np.random.default_rng(0).integers(0, FIELDS["vocab_size"], (2, 32)).astype(np.int32)
    assert oracle.logit_error(load_pretrained(source), theirs, tokens) < oracle.logit_bound
