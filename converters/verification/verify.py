"""A parity certificate: one model here and in transformers, compared in logits, layers, gradients and generation."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from converters.adapt import adapt_weights
from converters.architectures import ARCHITECTURES, Architecture, sizes
from converters.atomic_dir import locked_dir
from converters.export import export_weights
from converters.files import read_json
from converters.formats import safetensors_files, torch_files
from converters.hub import local_path
from converters.load import load_pretrained
from converters.save import save_pretrained
from converters.verification.certificate import AT_MOST, Certificate, bounded
from converters.verification.greedy import greedy_full_forward, greedy_with_cache
from converters.verification.oracle import Oracle
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import named_parameters, num_parameters

Tokens = Int[np.ndarray, "B T"]

OPENED = (safetensors_files.SINGLE, safetensors_files.INDEX, torch_files.SINGLE, torch_files.INDEX)
"""The files of weights that transformers reads."""
LENGTH = 64
"""Tokens of a compared text, and of a greedy continuation, where the context has room for them."""
TEXT = (
    "A language model reads a text from left to right and says, after every word, how likely each next word is. "
    "What it has read it keeps as keys and values; what it says depends on them, and on nothing that comes later."
)


def verify(
    source: str | Path,
    against: str | Path | None = None,
    *,
    model: GPT | None = None,
    dtype: str | None = None,
    load: Callable[..., GPT] = load_pretrained,
) -> Certificate:
    """Compare the model at `source` with what transformers makes of `against` (default: the same source).

    Every number is against float64; products here have the highest precision. `model` is what `source` holds, where
    it is loaded already; `load` reads a source. One that transformers does not open, such as a weights file or a run,
    is loaded and written to a temporary folder for it, which verifies the writing as well.

    Raises UserError where either cannot be loaded, or they are not of one size.
    """
    model = model or load(source, **({} if dtype is None else {"dtype": dtype}))
    with locked_dir(Path(tempfile.gettempdir()), "jaxgpt-verify-", "") as draft:
        folder = _for_transformers(source if against is None else against)
        written = folder is None
        if folder is None:
            folder = draft / "model"
            save_pretrained(model if against is None else load(against), folder, allow_nonfinite=True)
        oracle = Oracle(folder)
        architecture = ARCHITECTURES[read_json(folder / "config.json")["model_type"]]
        _check_sizes(model, oracle, architecture)
        with jax.default_matmul_precision("highest"):
            values, first_mismatch, facts = _measured(model, oracle, architecture)
    facts["versions"] = f"jax {jax.__version__} on {jax.default_backend()}, {oracle.versions}"
    name = str(source if against is None else against) + (", as written for it" if written else "")
    return Certificate(str(source), name, facts, bounded(values, model.config.dtype), first_mismatch)


def _for_transformers(source: str | Path) -> Path | None:
    """The folder of a source, where transformers opens it; None where we have to write one for it."""
    path = local_path(source)
    if not (path / "config.json").exists() or not any((path / name).exists() for name in OPENED):
        return None
    kind = read_json(path / "config.json").get("model_type")
    return path if isinstance(kind, str) and kind in ARCHITECTURES else None


def _check_sizes(model: GPT, oracle: Oracle, architecture: Architecture) -> None:
    """Raise UserError where the two models cannot be compared."""
    theirs = oracle.model.config
    for ours, name in (("vocab_size", "vocab_size"), ("num_layers", "num_hidden_layers"), ("d_model", "hidden_size")):
        here, there = getattr(model.config, ours), getattr(theirs, name)
        if here != there:
            raise UserError(f"{name} is {here} here and {there} there: these are two models")
    exported = jax.eval_shape(lambda model: export_weights(model, architecture.name), model)
    shapes = {architecture.short_name(name): tuple(value.shape) for name, value in oracle.model.named_parameters()}
    for row in architecture.rows(exported.config, named_parameters(exported)):
        if (here := row.layout.shape(sizes(exported.config))) != (there := shapes.get(row.theirs)):
            raise UserError(f"{row.theirs} is {here} here and {there} there: these are two models")


def _measured(model: GPT, oracle: Oracle, architecture: Architecture) -> tuple[dict[str, float], str, dict[str, str]]:
    length = min(LENGTH, model.config.context_length)
    text = oracle.encode(TEXT)
    noise = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, length))
    rows = [noise] if text is None or text.shape[1] < 2 else [noise, text[:, :length]]
    values, first_mismatch = _outputs_compared(model, oracle, rows)
    values["largest gradient error, relative"] = _gradient_error(model, oracle, architecture, rows[-1])
    values |= _greedy_compared(model, oracle, rows[-1][:, : max(1, length // 4)])
    facts = {
        "parameters": f"{num_parameters(model):,}",
        "architecture": architecture.name,
        "computed in": model.config.dtype,
        "tokens": f"{sum(row.size for row in rows)}, " + ("random and text" if len(rows) == 2 else "random"),
    }
    return values, first_mismatch, facts


def _outputs_compared(model: GPT, oracle: Oracle, rows: list[Tokens]) -> tuple[dict[str, float], str]:
    errors, largest, kl, agree, layers = [], [], [], [], []
    for tokens in rows:
        expected, hidden = oracle.outputs(tokens)
        ours, outputs = _layer_by_layer(model, jnp.asarray(tokens))
        logits = np.asarray(ours, np.float64)
        errors.append(np.abs(logits - expected).max())
        largest.append(np.abs(expected).max())
        kl.append(_kl_divergence(expected, logits).mean())
        agree.append((logits.argmax(-1) == expected.argmax(-1)).mean())
        layers.append([_relative(output, there) for output, there in zip(outputs, hidden, strict=True)])
    by_layer = np.max(layers, axis=0)
    values = {
        "largest logit error": max(errors),
        "largest logit error, relative": max(error / size for error, size in zip(errors, largest)),
        "KL divergence, nats per token": max(kl),
        "top-1 agreement": min(agree),
        "largest layer output error, relative": by_layer.max(),
    }
    return {name: float(value) for name, value in values.items()}, _first_mismatch(by_layer, model.config.dtype)


def _layer_by_layer(model: GPT, tokens: Int[Array, "B T"]) -> tuple[Array, list[Array]]:
    """The logits, and what enters each layer; last, what the head reads."""
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
    x = model.embed_tokens(tokens, positions)
    outputs = [x]
    for block in model.blocks:
        x, _ = block(x, positions)
        outputs.append(x)
    outputs[-1] = model.norm(x)
    return model.logits(outputs[-1]), outputs


def _first_mismatch(by_layer: Float[np.ndarray, " L"], dtype: str) -> str:
    bound = AT_MOST[dtype]["largest layer output error, relative"]
    for layer, error in enumerate(by_layer):
        if not error <= bound:
            where = "the embedding" if layer == 0 else f"layer {layer - 1}"
            return f"{where}, by {error:.1e} of its largest output"
    return "none"


def _gradient_error(model: GPT, oracle: Oracle, architecture: Architecture, tokens: Tokens) -> float:
    """The largest error of an element, as a part of its tensor's largest element."""
    model = adapt_weights(
        export_weights(model, architecture.name), scan_layers=True
    )  # quicker to compile, the same numbers
    grads = named_parameters(jax.jit(jax.grad(next_token_loss))(model, jnp.asarray(tokens)))
    ours = {name: grad * oracle.query_scale if ".attn.query." in name else grad for name, grad in grads.items()}
    theirs = {architecture.short_name(name): value for name, value in oracle.gradients(tokens).items()}
    rows = architecture.rows(model.config, ours)
    return max(_relative(row.tensor(ours, sizes(model.config)), theirs[row.theirs]) for row in rows)


def _greedy_compared(model: GPT, oracle: Oracle, prompt: Tokens) -> dict[str, float]:
    """The part of the greedy tokens up to the first that differs from theirs."""
    count = min(LENGTH, model.config.context_length - prompt.shape[1])
    if count < 1:
        return {}
    text = oracle.greedy(prompt, count)
    theirs = text[0, prompt.shape[1] :]
    cached = greedy_with_cache(model, prompt, count)
    plain = greedy_full_forward(adapt_weights(model, scan_layers=True), text)[prompt.shape[1] - 1 : -1]
    return {
        "greedy tokens": float(count),
        "greedy tokens equal": _equal_part(cached, theirs),
        "greedy tokens equal, without cache": _equal_part(plain, theirs),
    }


def _equal_part(ours: np.ndarray, theirs: np.ndarray) -> float:
    differs = np.flatnonzero(ours != theirs)
    return float(differs[0] / len(theirs)) if len(differs) else 1.0


def _relative(ours: Array | np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())


def _kl_divergence(expected: Float[np.ndarray, "B T V"], logits: Float[np.ndarray, "B T V"]) -> np.ndarray:
    p, q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (expected, logits))
    return (np.exp(p) * (p - q)).sum(-1)
