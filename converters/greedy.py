"""Greedy generation in plain steps, to compare with: through the cache, and by reading everything anew."""

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


def greedy_without_cache(model: GPT, prompt: Tokens, count: int) -> Int[np.ndarray, " N"]:
    """The same by reading the whole text anew for every token."""
    read, length = jax.jit(lambda model, text: model(text)), prompt.shape[1]
    text = np.pad(prompt, ((0, 0), (0, count)))  # what follows cannot change what came before
    for end in range(length, length + count):
        text[0, end] = int(read(model, text)[0, end - 1].argmax())
    return text[0, length:]
