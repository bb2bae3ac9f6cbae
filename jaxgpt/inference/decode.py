"""One more token of each text, with the batch that the platform's matrix products need."""

from jax import Array
from jaxtyping import Float, Int

from jaxgpt.model.cache import Cache
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.linear import pad_rows
from jaxgpt.ops.platform import target_platform

MIN_GEMM_ROWS = 8
"""Rows of a matrix product on GPUs and TPUs. On a GPU XLA writes out the terms of a product with one row, then sums
them: with 8 rows, and the weights of `cast_for_inference`, a token of batch 1 takes 336 MB instead of 2100."""


def decode_step(model: GPT, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
    """GPT.decode_step, with idle rows added where few rows are slow; these have no cache."""
    rows = tokens.shape[0]
    if rows >= MIN_GEMM_ROWS or target_platform() == "cpu":
        return model.decode_step(tokens, cache)
    padded = Cache(cache.layers, pad_rows(cache.length, MIN_GEMM_ROWS))
    logits, after = model.decode_step(pad_rows(tokens, MIN_GEMM_ROWS), padded)
    return logits[:rows], Cache(after.layers, after.length[:rows])
