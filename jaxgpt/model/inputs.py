"""What a model refuses to read, said in one sentence. Values are checked where they are known: not under jit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError


def check_tokens(config: GPTConfig, tokens: Any, key: Any = None) -> None:
    """Raise UserError where tokens are not int[B, T] of the vocabulary, too long, or the key does not go with them."""
    shape, dtype = np.shape(tokens), getattr(tokens, "dtype", None)
    if dtype is None:
        raise UserError(f"tokens must be an array of token ids [B, T], not a {type(tokens).__name__}; use jnp.asarray")
    if len(shape) != 2:
        raise UserError(
            f"tokens must be [batch, length], not of shape {list(shape)}"
            + ("; a single text is tokens[None]" if len(shape) == 1 else "")
        )
    if not np.issubdtype(dtype, np.integer):
        raise UserError(f"tokens must be token ids, whole numbers, not {dtype}; encode the text first")
    config.check_length(shape[1])
    _check_vocabulary(config.vocab_size, tokens)
    if key is not None:
        _check_key(key, shape[0])


def _check_vocabulary(vocab_size: int, tokens: Any) -> None:
    if isinstance(tokens, jax.core.Tracer) or not getattr(tokens, "is_fully_addressable", True) or not tokens.size:
        return
    ids = np.asarray(tokens)  # on the host: under jit, operations on a constant are traced
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= vocab_size:
        wrong = least if least < 0 else most
        raise UserError(f"token {wrong} is not in the vocabulary of {vocab_size}; is it another model's tokenizer?")


def _check_key(key: Any, rows: int) -> None:
    if not jax.dtypes.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise UserError(f"the dropout key must be made by jax.random.key(seed), not {type(key).__name__}")
    if key.shape not in ((), (rows,)):
        raise UserError(
            f"the dropout key has shape {list(key.shape)}: give one key, or one for each of the {rows} rows of tokens"
        )


def check_segment_ids(tokens: Any, segment_ids: Any) -> None:
    """Raise UserError where segment_ids are not a whole number for each token."""
    dtype = getattr(segment_ids, "dtype", None)
    if np.shape(segment_ids) != np.shape(tokens) or dtype is None or not np.issubdtype(dtype, np.integer):
        raise UserError(
            f"segment_ids are {dtype}{list(np.shape(segment_ids))} and tokens {list(np.shape(tokens))}: "
            "give the whole number of its document to each token"
        )


def document_ids(tokens: Int[Array, "B T"], end_of_text: int) -> Int[Array, "B T"]:
    """The number of each token's document in its row: one begins at each <|endoftext|>, and where the row begins.

    >>> document_ids(jnp.array([[5, 6, 0, 7, 0, 8]]), end_of_text=0).tolist()
    [[0, 0, 1, 1, 2, 2]]
    """
    return jnp.cumsum(tokens == end_of_text, axis=1)


def document_starts(segment_ids: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The position of the first token of each token's document.

    >>> document_starts(jnp.array([[0, 0, 1, 1, 2, 2]])).tolist()
    [[0, 0, 2, 2, 4, 4]]
    """
    begins = jnp.pad(segment_ids[:, 1:] != segment_ids[:, :-1], ((0, 0), (1, 0)))
    return jax.lax.cummax(jnp.where(begins, positions_of(segment_ids), 0), axis=1)


def positions_of(tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """0, 1, ... T - 1 in each row."""
    return jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
