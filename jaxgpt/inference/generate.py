"""Sampling: one compiled prefill, one compiled decode loop, a cache between them."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from jaxgpt.config import GPTConfig
from jaxgpt.inference.weights import cast_for_inference
from jaxgpt.model.cache import Cache
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.attention import on_gpu

Prompts = Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]]
SMALLEST = float(np.finfo(np.float32).tiny)
Scalar = float | int | Num[Array, ""]


def generate(
    model: GPT,
    tokens: Prompts,
    max_new_tokens: int,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    stop_token: int | None = None,
    fused: bool = False,
) -> Int[np.ndarray, "B S"]:
    """Continue each prompt by max_new_tokens; returns prompt and continuation, [B, T + new].

    temperature=0 takes the likeliest token. top_k keeps the k likeliest, top_p the least set of tokens whose
    probabilities reach p (Holtzman et al. 2020); both may be given. After stop_token a row is filled with it.
    Prompts of different lengths, given as lists, are padded with token 0 on the left. `fused` decodes by the kernels of
    inference/kernels.py, on an NVIDIA GPU.
    Raises ValueError on an empty prompt, a token the model does not know, a text too long for it, a setting outside
    its range, or where the kernels cannot run.
    """
    prompts, lengths = _pad(tokens)
    _check(model.config, prompts, max_new_tokens, temperature, top_k, top_p)
    if fused:
        from jaxgpt.inference.fused import check  # only here: Pallas' Triton backend may not be in every jax

        check(model.config)
    prompts = prompts.astype(np.int32)  # not before the check: a larger id would wrap around
    if max_new_tokens == 0:
        return prompts
    texts = np.stack([np.roll(row, length) for row, length in zip(prompts, lengths, strict=True)])
    logits, cache = _prefill(model, texts, lengths, capacity=prompts.shape[1] + max_new_tokens)
    new, _ = _decode(
        model,
        logits,
        cache,
        jax.random.key(seed),
        temperature,
        top_p,
        -1 if stop_token is None else stop_token,
        count=max_new_tokens,
        top_k=top_k,
        greedy=temperature < SMALLEST,
        fused=fused,
    )
    return np.concatenate([prompts, np.asarray(new)], axis=1)


_prefill = jax.jit(GPT.read, static_argnames="capacity")


@partial(jax.jit, static_argnames=("count", "top_k", "greedy", "fused"), donate_argnames="cache")
def _decode(
    model: GPT,
    logits: Float[Array, "B V"],
    cache: Cache,
    key: Array,
    temperature: Scalar,
    top_p: Scalar | None,
    stop_token: int | Int[Array, ""],
    *,
    count: int,
    top_k: int | None,
    greedy: bool,
    fused: bool = False,
) -> tuple[Int[Array, "B S"], Cache]:
    """Draw `count` tokens, fewer where every row has stopped. The cache is returned so that it can be donated."""

    def draw(logits: Array, step: Array) -> Array:
        if greedy:
            return logits.argmax(axis=-1)
        below = logits - logits.max(axis=-1, keepdims=True)  # a low temperature must not overflow
        kept = top_p_mask(top(below / temperature, top_k), top_p)
        return jax.random.categorical(jax.random.fold_in(key, step), kept)

    def choose(step: Array, logits: Array, stopped: Array, out: Array) -> tuple[Array, Array]:
        token = jnp.where(stopped, stop_token, draw(logits, step)).astype(jnp.int32)
        return stopped | (token == stop_token), out.at[:, step].set(token)

    def going(state: tuple) -> Bool[Array, ""]:
        step, stopped = state[0], state[1]
        return (step < count) & ~stopped.all()

    def advance(state: tuple) -> tuple:
        for _ in range(tokens_per_turn()):
            step, stopped, out, cache = state
            logits, cache = extend(model, out[:, step - 1], cache)
            state = (step + 1, *choose(step, logits, stopped, out), cache)
        return state

    extend = _extend(fused=fused)
    model, rows = cast_for_inference(model), logits.shape[0]
    out = jnp.full((rows, count), stop_token, jnp.int32)
    stopped, out = choose(jnp.int32(0), logits, jnp.zeros(rows, bool), out)
    _, _, out, cache = jax.lax.while_loop(going, advance, (jnp.int32(1), stopped, out, cache))
    return out, cache


def _extend(*, fused: bool) -> Callable[..., tuple[Array, Cache]]:
    """How a token is read."""
    if not fused:
        return GPT.extend
    from jaxgpt.inference.fused import extend

    return extend


def tokens_per_turn() -> int:
    """On a GPU the loop's condition is asked by the host, and a token takes less than the question. What a last turn
    draws beyond the end is written nowhere.
    """
    return 4 if on_gpu() else 1


def top(logits: Float[Array, "B V"], k: int | None) -> Float[Array, "B V"]:
    """Keep the k largest of each row; the others become impossible."""
    if k is None or k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def top_p_mask(logits: Float[Array, "B V"], p: Scalar | None) -> Float[Array, "B V"]:
    """Keep the likeliest tokens of each row until their probabilities reach p; the others become impossible."""
    if p is None:
        return logits
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability  # of the tokens that are likelier
    least = jnp.where((before < p) | (p == 1), ordered, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)


def _pad(tokens: Prompts) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Prompts as one array, padded on the left, and their lengths."""
    rows = [np.asarray(row) for row in tokens]
    if any(row.ndim == 0 for row in rows):
        raise ValueError("prompts are a batch, [B, T]; put a single prompt into a list")
    if not rows or any(row.size == 0 for row in rows):
        raise ValueError("a prompt is empty; give at least one token, such as the end-of-text token")
    if any(not np.issubdtype(row.dtype, np.integer) for row in rows):
        raise ValueError(f"prompts are token ids, whole numbers, not {rows[0].dtype}; encode the text first")
    width = max(len(row) for row in rows)
    lengths = np.array([len(row) for row in rows], np.int32)
    return np.stack([np.pad(row, (width - len(row), 0)) for row in rows]), lengths


def _check(
    config: GPTConfig,
    prompts: np.ndarray,
    max_new_tokens: int,
    temperature: float | int,
    top_k: int | None,
    top_p: float | int | None,
) -> None:
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens} is below 0")
    if prompts.min() < 0 or prompts.max() >= config.vocab_size:
        wrong = prompts.min() if prompts.min() < 0 else prompts.max()
        raise ValueError(
            f"token {wrong} is not in the vocabulary of {config.vocab_size}; is it another model's tokenizer?"
        )
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} is below 0; 0 is greedy, 1 samples as the model says")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} keeps no token; use at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is not a probability above 0, at most 1")
    config.check_length(prompts.shape[1] + max_new_tokens)
