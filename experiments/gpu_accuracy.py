"""Is what a GPU computes right? Attention, gradients and decoding of every variant beside float64. For gpu_day."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.costs import variants
from experiments.gpu_parts import Context, Row, Rows, attempt
from jaxgpt.config import Backend, GPTConfig
from jaxgpt.inference import fused
from jaxgpt.inference.decode import decode_step
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import named_parameters
from jaxgpt.ops.attention import BACKENDS
from tests import reference

ALLOWED = {"bfloat16": 0.03, "float32": 1e-4}
"""The largest difference from float64, as a part of the largest number: rounding is below it, a wrong mask is not."""
HEADS = {  # query heads, key-value heads, window, length
    "all heads": (12, 12, None, 384),
    "grouped": (12, 4, None, 384),
    "multi-query": (12, 1, None, 384),
    "window": (12, 12, 100, 384),
    "grouped, window": (12, 4, 100, 384),
    "odd length": (12, 12, None, 333),
}


def attention_rows(context: Context) -> Rows:
    """Forward and backward of the backend that trains, and of plain XLA in the same dtype."""
    dtype, backend = ("float32", "blocked") if context.tiny else ("bfloat16", "cudnn")
    for name, shape in HEADS.items():
        yield attempt(f"attention {backend}, {name}", lambda: attention(backend, dtype, *shape))  # noqa: B023


def attention(backend: str, dtype: str, heads: int, kv_heads: int, window: int | None, length: int) -> Row:
    """The errors of one backend, and of plain XLA."""
    rng, size = np.random.default_rng(0), 64
    shapes = [(2, length, count, size) for count in (heads, kv_heads, kv_heads, heads)]
    *inputs, d_y = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    scale = size**-0.5
    exact = exact_attention(*(np.asarray(x, np.float64) for x in (*inputs, d_y)), window=window, scale=scale)

    def errors(name: str) -> dict[str, float]:
        run = partial(BACKENDS[name], window=window, scale=scale, dropout_rate=0.0, dropout_key=None)
        found = jax.jit(lambda *x: (lambda y, pull: (y, *pull(d_y)))(*jax.vjp(run, *x)))(*inputs)
        forward, *backward = (error(one, other) for one, other in zip(found, exact, strict=True))
        return {"forward": forward, "backward": max(backward)}

    return judged(errors(backend), dtype, errors("xla"))


def exact_attention(q: Any, k: Any, v: Any, d_y: Any, *, window: int | None, scale: float) -> tuple[np.ndarray, ...]:
    """y, dq, dk, dv in float64 (Vaswani et al. 2017, eq. 1, and its derivative)."""
    group, length = q.shape[2] // k.shape[2], q.shape[1]
    wide_k, wide_v = (np.repeat(x, group, axis=2) for x in (k, v))
    distance = np.arange(length)[:, None] - np.arange(length)[None]
    seen = (distance >= 0) & (distance < (window or length))
    scores = np.where(seen, scale * np.einsum("btnh,bsnh->bnts", q, wide_k), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_weights = np.einsum("btnh,bsnh->bnts", d_y, wide_v)
    d_scores = scale * weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    d_k, d_v = np.einsum("bnts,btnh->bsnh", d_scores, q), np.einsum("bnts,btnh->bsnh", weights, d_y)
    narrow = [x.reshape(*k.shape[:3], group, -1).sum(3) for x in (d_k, d_v)]
    y = np.einsum("bnts,bsnh->btnh", weights, wide_v)
    return y, np.einsum("bnts,bsnh->btnh", d_scores, wide_k), *narrow


def model_rows(context: Context) -> Rows:
    """Whole models of every variant: logits, gradients, and a decoded token in every way.

    There are as many tokens as the model is wide: a bias added along the wrong axis of a square would show.
    """
    names: tuple[Backend, ...] = ("auto",) if context.tiny else ("auto", "cudnn")
    width, heads, dtype = (64, 2, "float32") if context.tiny else (256, 4, "bfloat16")
    baseline = GPTConfig(512, 128, num_layers=2, num_heads=heads, d_model=width, dtype=dtype)
    for name, config in variants(baseline, (1,), window=width // 16).items():
        model, rows = loud(config), 4
        tokens = np.random.default_rng(0).integers(0, 512, (rows, config.d_model // rows), dtype=np.int32)
        exact = reference.gpt(config, {path: np.asarray(x) for path, x in named_parameters(model).items()}, tokens)
        yield attempt(f"logits, {name}", lambda: whole(model, tokens, exact))  # noqa: B023
        yield attempt(f"gradient, {name}", lambda: gradient(model, tokens))  # noqa: B023
        ways: dict[str, tuple[Backend, Callable]] = {
            f"decoded by {backend}": (backend, decode_step) for backend in names
        }
        if not context.tiny or name == "baseline":  # interpreted, the kernels are slow
            ways["decoded by our kernels"] = ("auto", fused.decode_step)
        for way, (backend, step) in ways.items():
            other = with_config(model, attention=backend)
            yield attempt(f"{way}, {name}", lambda: decoded(other, tokens, exact, step))  # noqa: B023


def loud(config: GPTConfig) -> GPT:
    """A model whose every parameter is random, and large enough that each head and bias moves the output."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), GPT(config, rngs=nnx.Rngs(0))
    )


def with_config(model: GPT, **changes: Any) -> GPT:
    """The same weights in a model of another config."""
    other = GPT(dataclasses.replace(model.config, **changes), rngs=nnx.Rngs(0))
    return jax.tree.unflatten(jax.tree.structure(other), jax.tree.leaves(model))


def whole(model: GPT, tokens: np.ndarray, exact: np.ndarray) -> Row:
    """The logits of all tokens at once."""
    return judged({"logits": error(jax.jit(GPT.__call__)(model, tokens), exact)}, model.config.dtype)


def gradient(model: GPT, tokens: np.ndarray) -> Row:
    """Beside the same in float32 with plain attention: the distance of all gradients, as a part of their length."""

    def flat(model: GPT) -> np.ndarray:
        leaves = jax.tree.leaves(jax.jit(jax.grad(next_token_loss))(model, tokens))
        return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])

    with jax.default_matmul_precision("highest"):
        exact = flat(with_config(model, attention="xla", dtype="float32"))
    return judged({"gradient": float(np.linalg.norm(flat(model) - exact) / np.linalg.norm(exact))}, model.config.dtype)


def decoded(model: GPT, tokens: np.ndarray, exact: np.ndarray, step: Callable) -> Row:
    """The logits after the last token, which is read alone after a prompt of all the others."""
    rows, length = tokens.shape
    prefill = jax.jit(GPT.prefill, static_argnames="capacity")
    _, cache = prefill(model, tokens[:, :-1], np.full(rows, length - 1, np.int32), capacity=model.config.context_length)
    logits, _ = jax.jit(step)(model, jnp.asarray(tokens[:, -1]), cache)
    return judged({"logits": error(logits, exact[:, -1])}, model.config.dtype)


def error(found: Any, exact: np.ndarray) -> float:
    """The largest difference, as a part of the largest number."""
    return float(np.abs(np.asarray(found, np.float64) - exact).max() / np.abs(exact).max())


def judged(errors: dict[str, float], dtype: str, plain: dict[str, float] | None = None) -> Row:
    """Errors as a row, which has failed where one is too large (or no number)."""
    allowed = ALLOWED[dtype]
    row: Row = {"errors": errors, "allowed": allowed, "measured": spelled(errors), "beside": f"at most {allowed}"}
    if plain:
        row |= {"errors_of_xla": plain, "beside": f"at most {allowed}; plain XLA {spelled(plain)}"}
    wrong = {name: value for name, value in errors.items() if not value <= allowed}
    return row | ({"failed": f"it differs from float64: {spelled(wrong)}, allowed is {allowed}"} if wrong else {})


def spelled(errors: dict[str, float]) -> str:
    """Names and numbers."""
    return ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
