"""Greedy generation to compare with: token by token through the cache, and by one forward pass over the text."""

import jax
import numpy as np
from jaxtyping import Int

from jaxgpt.model.gpt import GPT

Tokens = Int[np.ndarray, "B T"]


def greedy_with_cache(model: GPT, prompt: Tokens, count: int) -> Int[np.ndarray, " N"]:
    """The most probable next tokens, one at a time through the key-value cache."""
    read = jax.jit(GPT.prefill, static_argnames="capacity")
    extend = jax.jit(GPT.decode_step)
    length = np.array([prompt.shape[1]])
    logits, cache = read(model, prompt, length, capacity=prompt.shape[1] + count)
    found = [int(logits.argmax())]
    while len(found) < count:
        logits, cache = extend(model, np.array(found[-1:]), cache)
        found.append(int(logits.argmax()))
    return np.array(found)


def greedy_full_forward(model: GPT, text: Tokens) -> Int[np.ndarray, " T"]:
    """The most probable token after each token of the text, from one forward pass.

    Up to the first that differs from the text it is what greedy generation without a cache would write: what follows
    cannot change what came before.
    """
    logits = jax.jit(lambda model, text: model(text))(model, text)
    return np.asarray(logits[0].argmax(-1))
