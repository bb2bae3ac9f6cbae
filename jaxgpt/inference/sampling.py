"""How the next token is drawn: temperature, top-k, top-p, min-p, a penalty on repetition; a setting and a key a row."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Key, UInt32

from jaxgpt.ops.argmax import argmax
from jaxgpt.ops.platform import target_platform

SMALLEST = float(np.finfo(np.float32).tiny)
"""A lower temperature is greedy: logits divided by it would not be numbers."""

Kind = Literal["greedy", "temperature", "filtered"]
"""What a program has code for. filtered has everything."""

FEW = 128
"""So many of the largest logits mostly decide what top-k and top-p keep."""

TOP = 5
"""How many alternatives are returned with a token's log probability."""


class Sampling(NamedTuple):
    """The settings of each row. What is neutral: 1, V, 1, 0, 1."""

    temperature: Float[Array | np.ndarray, " B"]
    top_k: Int[Array | np.ndarray, " B"]
    top_p: Float[Array | np.ndarray, " B"]
    min_p: Float[Array | np.ndarray, " B"]
    repetition_penalty: Float[Array | np.ndarray, " B"]


class Drawn(NamedTuple):
    """A token of each row, or several; log probabilities as the model gives them at temperature 1, if asked for."""

    token: Int[Array | np.ndarray, "B ..."]
    logprob: Float[Array | np.ndarray, "B ..."] | None = None
    top_tokens: Int[Array | np.ndarray, "B ... K"] | None = None
    top_logprobs: Float[Array | np.ndarray, "B ... K"] | None = None


def row_keys(seeds: UInt32[Array | np.ndarray, "B 3"]) -> Key[Array, " B"]:
    """A key for each row, of its seed in two halves and a number. No row's key depends on another row."""

    def key(seed: Array) -> Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed[0]), seed[1]), seed[2])

    return jax.vmap(key)(jnp.asarray(seeds))


def sample(
    logits: Float[Array, "B V"],
    keys: Key[Array, " B"],
    number: Int[Array, " B"],
    sampling: Sampling,
    seen: Bool[Array, "B V"] | None,
    *,
    kind: Kind,
    logprobs: bool,
) -> Drawn:
    """Draw each row's token; `number` says how many the row has drawn before. `seen` are the tokens of its text."""
    token = _token(logits, keys, number, sampling, seen, kind)
    if not logprobs:
        return Drawn(token)
    scores = jax.nn.log_softmax(logits, axis=-1)
    top, top_tokens = jax.lax.top_k(scores, min(TOP, scores.shape[-1]))
    return Drawn(token, jnp.take_along_axis(scores, token[:, None], axis=-1)[:, 0], top_tokens, top)


def _token(
    logits: Float[Array, "B V"],
    keys: Key[Array, " B"],
    number: Int[Array, " B"],
    sampling: Sampling,
    seen: Bool[Array, "B V"] | None,
    kind: Kind,
) -> Int[Array, " B"]:
    if kind == "greedy":
        return argmax(logits)
    if kind == "filtered" and seen is not None:
        logits = penalize(logits, seen, sampling.repetition_penalty)
    below = logits - logits.max(axis=-1, keepdims=True)  # a low temperature must not overflow
    scaled = below / jnp.maximum(sampling.temperature, SMALLEST)[:, None]
    if kind == "filtered":
        scaled = top_k_top_p_mask(scaled, sampling.top_k, sampling.top_p)
        scaled = jnp.where(scaled >= jnp.log(sampling.min_p)[:, None], scaled, -jnp.inf)
    noise = jax.vmap(lambda key, n: jax.random.gumbel(jax.random.fold_in(key, n), logits.shape[1:]))(keys, number)
    drawn = argmax(scaled + noise)  # Gumbel's trick: a draw from softmax(scaled)
    return jnp.where(sampling.temperature < SMALLEST, argmax(logits), drawn)


def penalize(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: Float[Array | np.ndarray, " B"]
) -> Float[Array, "B V"]:
    """Tokens that the text has already become less likely (Keskar et al. 2019, section 4.1)."""
    by = jnp.asarray(penalty)[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / by, logits * by), logits)


def top_k_mask(logits: Float[Array, "B V"], k: Int[Array | np.ndarray, " B"]) -> Float[Array, "B V"]:
    """Keep the k largest of each row; the others become impossible."""
    return top_k_top_p_mask(logits, k, np.ones(len(logits), np.float32))


def top_p_mask(logits: Float[Array, "B V"], p: Float[Array | np.ndarray, " B"]) -> Float[Array, "B V"]:
    """Keep the likeliest tokens of each row until their probabilities reach p (Holtzman et al. 2020, section 3.1)."""
    return top_k_top_p_mask(logits, np.full(len(logits), logits.shape[-1], np.int32), p)


def top_k_top_p_mask(
    logits: Float[Array, "B V"], k: Int[Array | np.ndarray, " B"], p: Float[Array | np.ndarray, " B"]
) -> Float[Array, "B V"]:
    """Keep the k largest of each row, and of these the likeliest until their probabilities reach p.

    On a CPU the vocabulary is sorted only where its FEW largest do not decide: a sort takes as long as a small model.
    """
    size, few = logits.shape[-1], min(FEW, logits.shape[-1])
    k, p = jnp.clip(jnp.asarray(k), 1, size)[:, None], jnp.asarray(p)[:, None]
    if target_platform() != "cpu" or few == size:  # on a GPU a branch would wait for the host
        least = _least(jnp.flip(jnp.sort(logits, axis=-1), axis=-1), logits, k, p)
        return jnp.where(logits >= least, logits, -jnp.inf)
    largest = jax.lax.top_k(logits, few)[0]
    reached = jnp.exp(largest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)).sum(axis=-1, keepdims=True)
    decided = (k <= few) | ((k == size) & ((reached > p) | (p >= 1)))
    least = jax.lax.cond(
        decided.all(),
        lambda: _least(largest, logits, k, p),
        lambda: _least(jnp.flip(jnp.sort(logits, axis=-1), axis=-1), logits, k, p),
    )
    return jnp.where(logits >= least, logits, -jnp.inf)


def _least(
    ordered: Float[Array, "B K"], logits: Float[Array, "B V"], k: Int[Array, "B 1"], p: Float[Array, "B 1"]
) -> Float[Array, "B 1"]:
    """The smallest logit that is kept; `ordered` are the largest, as many as decide."""
    among = jnp.where(jnp.arange(ordered.shape[-1])[None] < k, ordered, -jnp.inf)
    total = jnp.where(
        k == logits.shape[-1],
        jax.nn.logsumexp(logits, axis=-1, keepdims=True),
        jax.nn.logsumexp(among, axis=-1, keepdims=True),
    )
    probability = jnp.exp(among - total)
    before = jnp.cumsum(probability, axis=-1) - probability  # of the tokens that are likelier
    kept = ((before < p) | (p >= 1)) & (among > -jnp.inf)
    least = jnp.where(kept, among, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where((k == logits.shape[-1]) & (p >= 1), -jnp.inf, least)
