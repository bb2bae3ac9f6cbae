"""Greedy generation to compare with: in plain steps through the cache, and by reading a text at once."""

import jax
import numpy as np
from jaxtyping import Int

from jaxgpt.model.cache import empty_cache
from jaxgpt.model.gpt import GPT

Tokens = Int[np.ndarray, "B T"]


def greedy_with_cache(model: GPT, prompt: Tokens, count: int) -> Int[np.ndarray, " N"]:
    """The likeliest next tokens, one at a time through the key-value cache."""
    step = jax.jit(lambda model, tokens, positions, cache: model.extend(tokens, positions, cache))
    length = prompt.shape[1]
    logits, cache = step(model, prompt, np.arange(length)[None], empty_cache(model.config, 1, length + count))
    found = [int(logits.argmax())]
    while len(found) < count:
        position = np.array([[length + len(found) - 1]])
        logits, cache = step(model, np.array([[found[-1]]]), position, cache)
        found.append(int(logits.argmax()))
    return np.array(found)


def likeliest(model: GPT, text: Tokens) -> Int[np.ndarray, " T"]:
    """The likeliest token after each of the text's, all read at once.

    Up to the first that differs from the text it is what greedy generation without a cache would write: what follows
    cannot change what came before.
    """
    logits = jax.jit(lambda model, text: model(text))(model, text)
    return np.asarray(logits[0].argmax(-1))
