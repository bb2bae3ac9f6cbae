"""GPT-2 (Radford et al. 2019): attention, MLP, block, model. Modules hold parameters and nothing else.

Axes: B batch, T query position, S key position, V vocabulary, D width, N query heads, K key-value heads, H head size.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int, Key

from jaxgpt.config import GPTConfig
from jaxgpt.model.blocks import Blocks
from jaxgpt.model.cache import Cache, LayerCache, cache_from_prefill, cache_lengths, check_capacity, filled, write
from jaxgpt.model.init import INIT_STDDEV, PRNGSequence, Rngs, position_table, residual_stddev, vocabulary_table
from jaxgpt.model.inputs import check_segment_ids, check_tokens, document_starts, positions_of
from jaxgpt.model.layers import InferenceHead, LayerNorm, Linear
from jaxgpt.model.rotary import rotate
from jaxgpt.ops.attention import DocStarts, causal_attention, decode_attention
from jaxgpt.ops.dropout import DropoutKey, dropout, key_per_row, split_keys
from jaxgpt.ops.gelu import ACTIVATIONS
from jaxgpt.ops.linear import table_product
from jaxgpt.ops.residual import qkv, residual
from jaxgpt.ops.rounding import round_to

Hidden = Float[Array, "B T D"]
Tokens = Int[Array, "B T"]
Positions = Int[Array, "B T"]
AnyKey = Key[Array, "..."] | None
SegmentIds = Int[Array, "B T"] | None


class Attention(nnx.Module):
    """Multi-head causal self-attention (Vaswani et al. 2017, section 3.2); grouped heads are Ainslie et al. 2023."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: Rngs) -> None:
        D, N, K, H, bias = config.d_model, config.num_heads, config.kv_heads, config.head_dim, config.bias
        self.query = Linear((D,), (N, H), stddev=INIT_STDDEV, bias=bias, rngs=rngs)
        self.key = Linear((D,), (K, H), stddev=INIT_STDDEV, bias=bias, rngs=rngs)
        self.value = Linear((D,), (K, H), stddev=INIT_STDDEV, bias=bias, rngs=rngs)
        self.out = Linear((N, H), (D,), stddev=residual_stddev(config), bias=bias, rngs=rngs)
        self.config, self.window = config, config.windows[layer]
        self.scale = H**-0.5 / (layer + 1 if config.scale_attention_by_layer else 1)

    def __call__(
        self,
        x: Hidden,
        positions: Positions,
        cache: LayerCache | None = None,
        dropout_key: DropoutKey = None,
        doc_starts: DocStarts = None,
    ) -> tuple[Hidden, LayerCache]:
        """Attend within the text, or with a cache (T = 1) to the text before it. Also returns the keys and values."""
        c = self.config
        q, k, v = qkv(x, self.query, self.key, self.value)
        if c.position == "rotary":
            q, k = rotate(q, positions, c.rope_theta), rotate(k, positions, c.rope_theta)
        if cache is None:
            y = causal_attention(q, k, v, self.window, self.scale, c.attention, c.dropout, dropout_key, doc_starts)
            return self.out(y), LayerCache(k, v)
        cache = write(cache, k[:, 0], v[:, 0], positions[:, 0])
        y = decode_attention(q, *cache, filled(cache, positions[:, 0]), scale=self.scale, backend=c.attention)
        return self.out(y), cache


class MLP(nnx.Module):
    """Two linear maps with a nonlinearity between."""

    def __init__(self, config: GPTConfig, *, rngs: Rngs) -> None:
        self.up = Linear((config.d_model,), (config.mlp_width,), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        stddev = residual_stddev(config)
        self.down = Linear((config.mlp_width,), (config.d_model,), stddev=stddev, bias=config.bias, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x: Hidden) -> Hidden:
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: Rngs) -> None:
        self.attn_norm = layer_norm(config)
        self.attn = Attention(config, layer, rngs=rngs)
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config, rngs=rngs)
        self.rate = config.dropout

    def __call__(
        self,
        x: Hidden,
        positions: Positions,
        cache: LayerCache | None = None,
        dropout_key: DropoutKey = None,
        doc_starts: DocStarts = None,
    ) -> tuple[Hidden, LayerCache]:
        weights_key, attn_key, mlp_key = split_keys(dropout_key, 3)
        y, cache = self.attn(self.attn_norm(x), positions, cache, weights_key, doc_starts)
        x = x + dropout(residual(y), self.rate, attn_key)
        x = x + dropout(residual(self.mlp(self.mlp_norm(x))), self.rate, mlp_key)
        return x, cache


class GPT(nnx.Module):
    """GPT-2 (Radford et al. 2019, section 2.3): a stack of blocks between an embedding table and its transpose.

    `model(tokens int[B, T], key=None, segment_ids=None)` is float32[B, T, V]: the logits of the next token at every
    position. Raises UserError where tokens are not of the vocabulary, or more than the model can read.

    Example:
        >>> from jaxgpt import GPT, GPTConfig
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
        self.config = config
        keys.end()

    def __call__(self, tokens: Tokens, key: AnyKey = None, segment_ids: SegmentIds = None) -> Float[Array, "B T V"]:
        """Float32 logits of the next token at every position. With a key (one, or one for each of the B rows), dropout.

        segment_ids: the number of each token's document, where a row holds several, one after another. No token then
        attends to another document, and positions start again in each: the logits are those of the documents alone.
        Raises UserError where tokens are not [B, T] of the vocabulary or too many, or the others are of another shape.
        """
        return self.logits(self.hidden(tokens, key, segment_ids))

    def hidden(self, tokens: Tokens, key: AnyKey = None, segment_ids: SegmentIds = None) -> Hidden:
        """The residual stream after the last LayerNorm: what the head reads."""
        check_tokens(self.config, tokens, key)
        positions, doc_starts = positions_of(tokens), None
        if segment_ids is not None:
            check_segment_ids(tokens, segment_ids)
            doc_starts = document_starts(segment_ids)
            positions = positions - doc_starts
        embed_key, blocks_key = split_keys(key_per_row(key, tokens.shape[0]), 2)
        x = dropout(self.embed_tokens(tokens, positions), self.config.dropout, embed_key)
        return self.norm(self.blocks(x, positions, blocks_key, doc_starts))

    def prefill(self, tokens: Tokens, length: Int[Array, " B"], capacity: int) -> tuple[Float[Array, "B V"], Cache]:
        """Read prompts, padded on the right after `length` tokens; returns the logits after each prompt's last token.

        The cache has room for texts of `capacity` tokens. Raises UserError where the model cannot read so many.
        """
        check_tokens(self.config, tokens)
        positions, layers = positions_of(tokens), []
        x = self.embed_tokens(tokens, positions)
        for block, slots in zip(self.blocks, cache_lengths(self.config, capacity), strict=True):
            x, computed = block(x, positions)
            layers.append(cache_from_prefill(computed, length, slots))
        last = jnp.take_along_axis(x, length[:, None, None] - 1, axis=1)
        return self.logits(self.norm(last))[:, 0], Cache(tuple(layers), length)

    def decode_step(self, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
        """Read one more token of each text; returns the logits after it. Raises UserError where the cache is full.

        Under jit the lengths have no values yet, and the capacity is not checked.
        """
        check_capacity(self.config, cache)
        positions, layers = cache.length[:, None], []
        x = self.embed_tokens(tokens[:, None], positions)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x, layer = block(x, positions, layer)
            layers.append(layer)
        return self.logits(self.norm(x))[:, 0], Cache(tuple(layers), cache.length + 1)

    def embed_tokens(self, tokens: Tokens, positions: Positions) -> Hidden:
        """The token's row of the table, plus the position's where positions are learned."""
        # Gathered in float32, since the gradient is a sum over occurrences, but as on a mesh, which sends them rounded.
        x = round_to(self.embed[...][tokens], self.config.dtype)
        if self.position is not None:
            x = x + self.position[...][positions]
        return x.astype(self.config.dtype)

    def logits(self, x: Hidden) -> Float[Array, "B T V"]:
        """Scores over the vocabulary in float32, without the table's padding rows."""
        if isinstance(self.head, InferenceHead):
            logits = self.head(x)
        else:
            logits = table_product(x, self.output_table.astype(x.dtype))
        return logits[..., : self.config.vocab_size]

    @property
    def output_table(self) -> Float[Array, "V D"]:
        """The head's matrix, padding rows included: the embedding table where they are tied."""
        if isinstance(self.head, InferenceHead):
            return self.head.table
        return (self.embed if self.head is None else self.head)[...]


def layer_norm(config: GPTConfig) -> LayerNorm:
    """A LayerNorm over the residual stream."""
    return LayerNorm(config.d_model, epsilon=config.layer_norm_epsilon, bias=config.bias)
