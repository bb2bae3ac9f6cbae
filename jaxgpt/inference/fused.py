"""One token more of each text in fewer and larger kernels, for NVIDIA GPUs, where a token is mostly launches."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.model.cache import Cache, LayerCache, write
from jaxgpt.model.gpt import GPT, Block
from jaxgpt.model.rotary import turns
from jaxgpt.ops import decode_kernels as kernels
from jaxgpt.ops.attention import on_gpu
from jaxgpt.ops.frugal import MIN_GEMM_ROWS, pad_rows, residual_update


def extend(model: GPT, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
    """What GPT.extend returns, within rounding. `check` has refused what the kernels cannot do."""
    position = cache.length
    x, layers = model.embed_tokens(tokens[:, None], position[:, None])[:, 0], []
    apply = _few if len(tokens) <= kernels.MOST_ROWS else _many
    for block, layer in zip(model.blocks, cache.layers, strict=True):
        x, layer = apply(block, x, position, layer)
        layers.append(layer)
    logits = model.logits(pad_rows(model.norm(x), MIN_GEMM_ROWS)[:, None])[: len(tokens), 0]
    return logits, Cache(tuple(layers), position + 1)


def _few(
    block: Block, x: Float[Array, "B D"], position: Int[Array, " B"], cache: LayerCache
) -> tuple[Float[Array, "B D"], LayerCache]:
    """A block by kernels that read each weight once for all texts."""
    config = block.attn.config
    turn = turns(position, config.head_dim, config.rope_theta) if config.position == "rotary" else None
    q, cache = kernels.project(block.attn_norm, block.attn, x, turn, position % cache.key.shape[1], cache)
    x = kernels.out(block.attn.out, _attended(block, q, position, cache), x)
    return kernels.mlp(block.mlp_norm, block.mlp, x), cache


def _many(
    block: Block, x: Float[Array, "B D"], position: Int[Array, " B"], cache: LayerCache
) -> tuple[Float[Array, "B D"], LayerCache]:
    """A block by matrix products, but for attention: with many texts the cache is most of what is read."""
    q, k, v = (heads[:, 0] for heads in block.attn.project(block.attn_norm(x)[:, None], position[:, None]))
    cache = write(cache, k, v, position)
    x = x + residual_update(block.attn.out(_attended(block, q, position, cache)))
    return x + residual_update(block.mlp(block.mlp_norm(x)[:, None])[:, 0]), cache


def _attended(
    block: Block, q: Float[Array, "B N H"], position: Int[Array, " B"], cache: LayerCache
) -> Float[Array, "B N H"]:
    seen = jnp.minimum(position + 1, cache.key.shape[1])
    return kernels.attend(q, cache, seen, scale=block.attn.scale)


def check(config: GPTConfig) -> None:
    """Raise ValueError where the kernels cannot run."""
    if config.head_dim not in (32, 64, 128, 256):
        raise ValueError(f"fused decoding needs a head size of 32, 64, 128 or 256, not {config.head_dim}; leave it out")
    for name, width in {"d_model": config.d_model, "d_mlp": config.mlp_width}.items():
        if width % kernels.WIDE:
            raise ValueError(f"fused decoding needs a multiple of {kernels.WIDE}, not {name}={width}; leave it out")
    if not on_gpu():
        raise ValueError("fused decoding needs an NVIDIA GPU; leave it out")
