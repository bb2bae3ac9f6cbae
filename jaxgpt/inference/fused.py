"""One token more of each text in fewer and larger kernels, for NVIDIA GPUs, where a token is mostly launches."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.inference.decode import MIN_GEMM_ROWS
from jaxgpt.model.cache import Cache, LayerCache, filled, write
from jaxgpt.model.gpt import GPT, Block
from jaxgpt.model.layers import LayerNorm, Linear
from jaxgpt.model.rotary import rotate, rotations
from jaxgpt.ops import decode_kernels as kernels
from jaxgpt.ops.barrier import barrier
from jaxgpt.ops.linear import pad_rows
from jaxgpt.ops.platform import on_gpu
from jaxgpt.ops.residual import qkv


def decode_step(model: GPT, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
    """What GPT.decode_step returns, within rounding. `check` has refused what the kernels cannot do."""
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
    config, attn = block.attn.config, block.attn
    rotary = config.position == "rotary"
    angles = rotations(position, config.head_dim, config.rope_theta) if rotary else None
    query, key, value = (_weights(linear) for linear in (attn.query, attn.key, attn.value))
    slot = position % cache.key.shape[1]
    q, written = kernels.project(x, _norm(block.attn_norm), query, key, value, angles, slot, cache)
    cache = LayerCache(*written)
    x = kernels.out(x, _attention(block, q, position, cache), _weights(attn.out))
    mlp = block.mlp
    return kernels.mlp(x, _norm(block.mlp_norm), _weights(mlp.up), _weights(mlp.down), mlp.activation), cache


def _many(
    block: Block, x: Float[Array, "B D"], position: Int[Array, " B"], cache: LayerCache
) -> tuple[Float[Array, "B D"], LayerCache]:
    """A block by matrix products, but for attention: with many texts the cache is most of what is read."""
    attn, config = block.attn, block.attn.config
    q, k, v = qkv(block.attn_norm(x)[:, None], attn.query, attn.key, attn.value)
    if config.position == "rotary":
        q, k = (rotate(heads, position[:, None], config.rope_theta) for heads in (q, k))
    cache = write(cache, k[:, 0], v[:, 0], position)
    x = x + barrier(attn.out(_attention(block, q[:, 0], position, cache)))
    return x + barrier(block.mlp(block.mlp_norm(x)[:, None])[:, 0]), cache


def _attention(
    block: Block, q: Float[Array, "B N H"], position: Int[Array, " B"], cache: LayerCache
) -> Float[Array, "B N H"]:
    return kernels.decode_attention(q, cache, filled(cache, position), scale=block.attn.scale)


def _weights(linear: Linear) -> kernels.LinearWeights:
    outputs = linear.kernel.shape[linear.num_inputs :]
    return kernels.LinearWeights(linear.kernel[...], jnp.zeros(outputs) if linear.bias is None else linear.bias[...])


def _norm(norm: LayerNorm) -> kernels.NormWeights:
    scale = norm.scale[...]
    return kernels.NormWeights(scale, jnp.zeros_like(scale) if norm.bias is None else norm.bias[...], norm.epsilon)


def check(config: GPTConfig) -> None:
    """Raise UserError where the kernels cannot run."""
    if config.head_dim not in (32, 64, 128, 256):
        raise UserError(f"fused decoding needs a head size of 32, 64, 128 or 256, not {config.head_dim}; leave it out")
    for name, width in {"d_model": config.d_model, "d_mlp": config.mlp_width}.items():
        if width % kernels.WIDE:
            raise UserError(f"fused decoding needs a multiple of {kernels.WIDE}, not {name}={width}; leave it out")
    if not on_gpu():
        raise UserError("fused decoding needs an NVIDIA GPU; leave it out")
