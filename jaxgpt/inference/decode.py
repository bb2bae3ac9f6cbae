"""One more token of each text, with the batch that the platform's matrix products need."""

from jax import Array
from jaxtyping import Float, Int

from jaxgpt.model.cache import Cache
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.linear import pad_rows
from jaxgpt.ops.platform import on_gpu

MIN_GEMM_ROWS = 8
"""Rows of a matrix product on a GPU. XLA writes out the terms of a product with one row and then sums them: with 8
rows instead of 1, and the weights of `cast_for_inference`, a token of batch 1 takes 336 MB instead of 2100."""


def decode_step(model: GPT, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
    """GPT.decode_step; on a GPU with idle rows added, which have no cache."""
    if not on_gpu():
        return model.decode_step(tokens, cache)
    rows = tokens.shape[0]
    padded = Cache(cache.layers, pad_rows(cache.length, MIN_GEMM_ROWS))
    logits, after = model.decode_step(pad_rows(tokens, MIN_GEMM_ROWS), padded)
    return logits[:rows], Cache(after.layers, after.length[:rows])
