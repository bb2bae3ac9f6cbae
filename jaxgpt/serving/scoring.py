"""Log probabilities of a prompt's own tokens, for `echo`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.inference import buckets
from jaxgpt.inference.sampling import TOP
from jaxgpt.model.gpt import GPT


def score(
    model: GPT, tokens: Int[np.ndarray, " T"], num_tokens: int
) -> tuple[list[float], list[list[tuple[int, float]]]]:
    """The log probability of each token after the first, and the likeliest tokens with theirs at its place.

    Ids from num_tokens on have none, as in drawing.
    """
    size = buckets.prompt_size(model.config, len(tokens))
    padded = np.pad(tokens, (0, size - len(tokens))).astype(np.int32)
    found = _score(model, padded[None], np.asarray(num_tokens, np.int32))
    logprobs, top, top_tokens = (np.asarray(x)[: len(tokens) - 1] for x in found)
    pairs = zip(top_tokens.tolist(), top.tolist(), strict=True)
    return logprobs.tolist(), [list(zip(*pair, strict=True)) for pair in pairs]


@jax.jit
def _score(
    model: GPT, tokens: Int[Array | np.ndarray, "1 T"], num_tokens: Int[Array | np.ndarray, ""]
) -> tuple[Float[Array, " S"], Float[Array, "S K"], Int[Array, "S K"]]:
    tokens = jnp.asarray(tokens)
    logits = model(tokens)[0, :-1]
    known = jnp.arange(logits.shape[-1])[None] < num_tokens
    scores = jax.nn.log_softmax(jnp.where(known, logits, -jnp.inf), axis=-1)
    top, top_tokens = jax.lax.top_k(scores, min(TOP, scores.shape[-1]))
    return jnp.take_along_axis(scores, tokens[0, 1:, None], axis=-1)[:, 0], top, top_tokens
