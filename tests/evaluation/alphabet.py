"""A model whose every score is known by hand: after a letter comes the next of the alphabet, half of the time."""

import math
import string
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_map_with_path

from jaxgpt.config import GPTConfig
from jaxgpt.data import CharTokenizer
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, path_name

LETTERS = "".join(sorted(string.ascii_lowercase + string.ascii_uppercase + " \n.,:?'\"=[]@-()0123456789"))
V = len(LETTERS)
TOKENIZER = CharTokenizer(LETTERS)
NEXT, OTHER = math.log(0.5), math.log(0.5 / (V - 1))


def logprob(text: str, before: str) -> float:
    """The log of p(text | before), by counting."""
    whole = before[-1] + text
    return sum(NEXT if is_next(a, b) else OTHER for a, b in pairwise(whole))


def is_next(a: str, b: str) -> bool:
    return (LETTERS.index(a) + 1) % V == LETTERS.index(b)


def alphabet_model(context_length: int = 256) -> GPT:
    """One-hot embeddings, a block that adds nothing, and a head that holds the table of log-probabilities."""
    config = GPTConfig(
        vocab_size=V,
        context_length=context_length,
        num_layers=1,
        num_heads=1,
        d_model=V,
        position="none",
        tie_embeddings=False,
    )
    table = np.full((config.padded_vocab_size, V), OTHER)
    for current in range(V):
        table[(current + 1) % V, current] = NEXT
    model = abstract_model(config)
    variance = (1 - 1 / V) / V + config.layer_norm_epsilon
    values = {
        "embed": np.eye(config.padded_vocab_size, V),
        "head": table,
        "norm.scale": np.full(V, variance**0.5),
        "norm.bias": np.full(V, 1 / V),
    }

    return tree_map_with_path(
        lambda path, leaf: jnp.asarray(values.get(path_name(path), np.zeros(leaf.shape)), jnp.float32), model
    )
