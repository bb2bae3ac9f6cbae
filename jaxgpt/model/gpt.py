"""GPT-2 (Radford et al. 2019): attention, MLP, block, model. Modules hold parameters and nothing else.

Axes: B batch, T query position, S key position, V vocabulary, D model width, N query heads, K key-value heads, H head
size. Key-value heads fewer than query heads are Ainslie et al. 2023; rotary positions Su et al. 2021; windows Beltagy
et al. 2020. A key-value cache is an argument and a result.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int, Key

from jaxgpt.config import GPTConfig
from jaxgpt.model.blocks import Blocks
from jaxgpt.model.cache import (
    Cache,
    LayerCache,
    cache_from_prefill,
    cache_lengths,
    check_capacity,
    filled,
    write,
)
from jaxgpt.model.inputs import check_tokens
from jaxgpt.model.layers import LayerNorm, Linear, PRNGSequence
from jaxgpt.model.rotary import rotate
from jaxgpt.ops.attention import causal_attention, decode_attention
from jaxgpt.ops.dropout import DropoutKey, dropout, key_per_row, split_keys
from jaxgpt.ops.gelu import ACTIVATIONS
from jaxgpt.ops.residual import qkv, residual

INIT_STDDEV, POSITION_STDDEV = 0.02, 0.01


class Attention(nnx.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        D, N, K, H = config.d_model, config.num_heads, config.kv_heads, config.head_dim
        self.query = Linear((D,), (N, H), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.key = Linear((D,), (K, H), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.value = Linear((D,), (K, H), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.out = Linear((N, H), (D,), stddev=residual_stddev(config), bias=config.bias, rngs=rngs)
        self.config = config
        self.window = config.windows[layer]
        self.scale = H**-0.5 / (layer + 1 if config.scale_attention_by_layer else 1)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        cache: LayerCache | None = None,
        dropout_key: DropoutKey = None,
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        """Attend within the text; with a cache, T = 1, to the text before it too. Returns keys and values as well."""
        c = self.config
        q, k, v = qkv(x, self.query, self.key, self.value)
        if c.position == "rotary":
            q, k = rotate(q, positions, c.rope_theta), rotate(k, positions, c.rope_theta)
        if cache is None:
            y = causal_attention(
                q,
                k,
                v,
                window=self.window,
                scale=self.scale,
                dropout_rate=c.dropout,
                dropout_key=dropout_key,
                backend=c.attention,
            )
            return self.out(y), LayerCache(k, v)
        position = positions[:, 0]
        cache = write(cache, k[:, 0], v[:, 0], position)
        y = decode_attention(q, *cache, filled(cache, position), scale=self.scale, backend=c.attention)
        return self.out(y), cache


class MLP(nnx.Module):
    """Two linear maps with a nonlinearity between."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        D, F = config.d_model, config.mlp_width
        self.up = Linear((D,), (F,), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.down = Linear((F,), (D,), stddev=residual_stddev(config), bias=config.bias, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        self.attn_norm = layer_norm(config)
        self.attn = Attention(config, layer, rngs=rngs)
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config, rngs=rngs)
        self.rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        cache: LayerCache | None = None,
        dropout_key: DropoutKey = None,
    ) -> tuple[Float[Array, "B T D"], LayerCache]:
        weights_key, attn_key, mlp_key = split_keys(dropout_key, 3)
        y, cache = self.attn(self.attn_norm(x), positions, cache, weights_key)
        x = x + dropout(residual(y), self.rate, attn_key)
        y = self.mlp(self.mlp_norm(x))
        x = x + dropout(residual(y), self.rate, mlp_key)
        return x, cache


class GPT(nnx.Module):
    """A stack of blocks between an embedding table and its transpose.

    >>> model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    >>> model(jnp.array([[1, 2, 3]])).shape
    (1, 3, 97)
    """

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        keys = PRNGSequence(rngs)
        self.embed = nnx.Param(vocabulary_table(config, keys))
        self.position = nnx.Param(position_table(config, keys)) if config.position == "learned" else None
        blocks = [Block(config, layer, rngs=keys) for layer in range(config.num_layers)]
        self.blocks = Blocks(blocks, scan=config.scan_layers)
        self.norm = layer_norm(config)
        self.head = None if config.tie_embeddings else nnx.Param(vocabulary_table(config, keys))
        keys.end()
        self.config = config

    def __call__(self, tokens: Int[Array, "B T"], key: Key[Array, "..."] | None = None) -> Float[Array, "B T V"]:
        """Logits of the next token at every position, in float32.

        With a key, dropout: one key, or one for each of the B rows. Raises UserError where tokens are not [B, T] of the
        vocabulary, or more than the model can read, or the key is of another shape.
        """
        return self.logits(self.hidden(tokens, key))

    def hidden(self, tokens: Int[Array, "B T"], key: Key[Array, "..."] | None = None) -> Float[Array, "B T D"]:
        """The residual stream after the last LayerNorm: what the head reads."""
        check_tokens(self.config, tokens, key)
        embed_key, blocks_key = split_keys(key_per_row(key, tokens.shape[0]), 2)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        x = dropout(self.embed_tokens(tokens, positions), self.config.dropout, embed_key)
        return self.norm(self.blocks(x, positions, blocks_key))

    def prefill(
        self, tokens: Int[Array, "B T"], length: Int[Array, " B"], capacity: int
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Read prompts, padded on the right after `length` tokens, into a cache for texts of up to `capacity` tokens.

        Returns the logits after each prompt's last token. Raises UserError where the model cannot read so long a text.
        """
        check_tokens(self.config, tokens)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        x, layers = self.embed_tokens(tokens, positions), []
        for block, slots in zip(self.blocks, cache_lengths(self.config, capacity), strict=True):
            x, computed = block(x, positions)
            layers.append(cache_from_prefill(computed, length, slots))
        last = jnp.take_along_axis(x, length[:, None, None] - 1, axis=1)
        return self.logits(self.norm(last))[:, 0], Cache(tuple(layers), length)

    def decode_step(self, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
        """Read one more token of each text. Returns the logits after it. Raises UserError where the cache is full.

        Under jit the cache's lengths are not known, and its capacity is not checked.
        """
        check_capacity(self.config, cache)
        positions, layers = cache.length[:, None], []
        x = self.embed_tokens(tokens[:, None], positions)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x, layer = block(x, positions, layer)
            layers.append(layer)
        return self.logits(self.norm(x))[:, 0], Cache(tuple(layers), cache.length + 1)

    def embed_tokens(self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The token's row of the table, plus the position's where positions are learned."""
        x = self.embed[...][tokens]  # gathered in float32: its gradient is a sum over occurrences
        if self.position is not None:
            x = x + self.position[...][positions]
        return x.astype(self.config.dtype)

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores over the vocabulary in float32, without the table's padding rows."""
        table = self.output_table.astype(x.dtype)
        logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
        return logits[..., : self.config.vocab_size]

    @property
    def output_table(self) -> Float[Array, "V D"]:
        """The head's matrix, padding rows included: the embedding table where they are tied."""
        return (self.embed if self.head is None else self.head)[...]


def layer_norm(config: GPTConfig) -> LayerNorm:
    """A LayerNorm over the residual stream."""
    return LayerNorm(config.d_model, epsilon=config.layer_norm_epsilon, bias=config.bias)


def residual_stddev(config: GPTConfig) -> float:
    """GPT-2 scales the init of residual projections by 1/sqrt(their number), two to a block."""
    return INIT_STDDEV * (2 * config.num_layers) ** -0.5


def position_table(config: GPTConfig, rngs: PRNGSequence) -> Float[Array, "T D"]:
    """A row for each position."""
    return POSITION_STDDEV * jax.random.normal(rngs.params(), (config.context_length, config.d_model))


def vocabulary_table(config: GPTConfig, rngs: PRNGSequence) -> Float[Array, "V D"]:
    """A row for each token; the padding rows are zero and stay so, since their gradient is zero."""
    table = INIT_STDDEV * jax.random.normal(rngs.params(), (config.vocab_size, config.d_model))
    return jnp.pad(table, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
