"""GPT-2 (Radford et al. 2019): parts, then the block, then the model. Modules hold parameters and nothing else."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.model.cache import Cache, LayerCache, cache_from_prefill, slots, write
from jaxgpt.model.layers import DropoutKeys, LayerNorm, Linear, PRNGSequence, dropout, fold_keys, split_keys
from jaxgpt.model.remat import Ready, Remat, checkpoint_block, identity
from jaxgpt.model.rotary import rotate
from jaxgpt.ops.attention import BACKENDS, DECODERS, Keys, Queries, choose, on_gpu, target_platform
from jaxgpt.ops.frugal import MIN_GEMM_ROWS, barrier_copies, pad_rows, recompute_in_backward, residual_update

INIT_STDDEV = 0.02
POSITION_STDDEV = 0.01
ACTIVATIONS = {
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class Attention(nnx.Module):
    """Multi-head causal attention; rotary positions, grouped heads and a window are switches."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        width, heads, kv_heads, size = config.d_model, config.num_heads, config.kv_heads, config.head_dim
        self.query = Linear((width,), (heads, size), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.key = Linear((width,), (kv_heads, size), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.value = Linear((width,), (kv_heads, size), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.out = Linear((heads, size), (width,), stddev=residual_stddev(config), bias=config.bias, rngs=rngs)
        self.config = config
        self.window = config.windows[layer]
        self.scale = size**-0.5 / (layer + 1 if config.scale_attention_by_layer else 1)

    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], keys: DropoutKeys = None
    ) -> Float[Array, "B T D"]:
        """Attend within the text."""
        return self.read(x, positions, keys)[0]

    def read(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], keys: DropoutKeys = None
    ) -> tuple[Float[Array, "B T D"], Keys, Keys]:
        """The same, with the text's keys and values."""
        q, k, v = self.project(x, positions)
        rate = self.config.dropout if keys is not None else 0.0
        backend = BACKENDS[self.backend(x.shape[1], rate)]
        return self.out(backend(q, k, v, window=self.window, scale=self.scale, rate=rate, drop=keys)), k, v

    def extend(
        self, x: Float[Array, "R 1 D"], position: Int[Array, " B"], cache: LayerCache
    ) -> tuple[Float[Array, "R 1 D"], LayerCache]:
        """One token more of each text, which attends to the cache and to itself. Rows past B are idle."""
        rows = position.shape[0]
        q, k, v = (heads[:rows] for heads in self.project(x, pad_rows(position[:, None], x.shape[0])))
        cache = write(cache, k[:, 0], v[:, 0], position)
        decode = DECODERS["cudnn" if self.config.attention == "cudnn" else "xla"]
        seen = jnp.minimum(position + 1, cache.key.shape[1])
        return self.out(pad_rows(decode(q, cache.key, cache.value, seen, scale=self.scale), x.shape[0])), cache

    def backend(self, length: int, rate: float = 0.0) -> str:
        """The name of the backend that runs on a text of `length` tokens here."""
        c = self.config
        return choose(
            c.attention,
            platform=target_platform(),
            dtype=c.dtype,
            head_dim=c.head_dim,
            window=self.window,
            length=length,
            dropout=rate,
        )

    def project(self, x: Float[Array, "B T D"], positions: Int[Array, "B T"]) -> tuple[Queries, Keys, Keys]:
        """Queries, keys and values; queries and keys are turned where positions are rotary."""
        q, k, v = (
            project(x) for project, x in zip((self.query, self.key, self.value), barrier_copies(x, 3), strict=True)
        )
        if self.config.position == "rotary":
            q, k = (rotate(heads, positions, self.config.rope_theta) for heads in (q, k))
        return q, k, v


class MLP(nnx.Module):
    """Two linear maps with a nonlinearity between."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        width, wide = config.d_model, config.mlp_width
        self.up = Linear((width,), (wide,), stddev=INIT_STDDEV, bias=config.bias, rngs=rngs)
        self.down = Linear((wide,), (width,), stddev=residual_stddev(config), bias=config.bias, rngs=rngs)
        self.activation = config.activation

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(recompute_in_backward(ACTIVATIONS[self.activation])(self.up(x)))


class Block(nnx.Module):
    """Pre-norm residual block."""

    def __init__(self, config: GPTConfig, layer: int, *, rngs: nnx.Rngs | PRNGSequence) -> None:
        self.attn_norm = layer_norm(config)
        self.attn = Attention(config, layer, rngs=rngs)
        self.mlp_norm = layer_norm(config)
        self.mlp = MLP(config, rngs=rngs)
        self.rate = config.dropout

    def __call__(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], keys: DropoutKeys = None
    ) -> Float[Array, "B T D"]:
        return self.read(x, positions, keys)[0]

    def read(
        self, x: Float[Array, "B T D"], positions: Int[Array, "B T"], keys: DropoutKeys = None
    ) -> tuple[Float[Array, "B T D"], Keys, Keys]:
        """The same, with the text's keys and values."""
        weights, first, second = split_keys(keys, 3)
        mixed, k, v = self.attn.read(self.attn_norm(x), positions, weights)
        x = x + dropout(residual_update(mixed), self.rate, first)
        return x + dropout(residual_update(self.mlp(self.mlp_norm(x))), self.rate, second), k, v

    def extend(
        self, x: Float[Array, "R 1 D"], position: Int[Array, " B"], cache: LayerCache
    ) -> tuple[Float[Array, "R 1 D"], LayerCache]:
        """The same for one token more of each text."""
        mixed, cache = self.attn.extend(self.attn_norm(x), position, cache)
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x)), cache


class GPT(nnx.Module):
    """A stack of blocks between an embedding table and its transpose."""

    def __init__(self, config: GPTConfig, *, rngs: nnx.Rngs) -> None:
        draws = PRNGSequence(rngs)
        self.embed = nnx.Param(vocabulary_table(config, draws))
        self.position = nnx.Param(position_table(config, draws)) if config.position == "learned" else None
        self.blocks = nnx.List([Block(config, layer, rngs=draws) for layer in range(config.num_layers)])
        self.norm = layer_norm(config)
        self.head = None if config.tie_embeddings else nnx.Param(vocabulary_table(config, draws))
        draws.end()
        self.config = config

    def __call__(self, tokens: Int[Array, "B T"], keys: DropoutKeys = None) -> Float[Array, "B T V"]:
        """Logits of the next token at every position. With keys, dropout.

        Raises ValueError where the text is longer than the model can read.
        """
        return self.logits(self.hidden(tokens, keys))

    def hidden(
        self, tokens: Int[Array, "B T"], keys: DropoutKeys = None, *, ready: Ready = identity, remat: Remat = "none"
    ) -> Float[Array, "B T D"]:
        """What the head reads: the residual stream after the last LayerNorm."""
        self.config.check_length(tokens.shape[1])
        embed_keys, blocks_keys = split_keys(keys, 2)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        x = dropout(self.embed_tokens(tokens, positions), self.config.dropout, embed_keys)
        scan = self.config.scan_layers
        return self.norm(run(self.blocks, x, positions, blocks_keys, scan=scan, ready=ready, remat=remat))

    def read(
        self, tokens: Int[Array, "B T"], length: Int[Array, " B"], capacity: int
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Read prompts, filled up on the right after `length` tokens, into a cache for texts of up to `capacity`.

        Returns the logits after each prompt's last token. Padding is never seen: it comes after, and is not kept.
        Raises ValueError where the model cannot read so long a text.
        """
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        x, layers = self.embed_tokens(tokens, positions), []
        for block, kept in zip(self.blocks, slots(self.config, capacity), strict=True):
            x, k, v = block.read(x, positions)
            layers.append(cache_from_prefill(k, v, length, kept))
        last = jnp.take_along_axis(x, length[:, None, None] - 1, axis=1)
        return self.logits(self.norm(last))[:, 0], Cache(tuple(layers), length)

    def extend(self, tokens: Int[Array, " B"], cache: Cache) -> tuple[Float[Array, "B V"], Cache]:
        """Read one token more of each text. Returns the logits after it. `read` has checked that it fits."""
        x, layers = residual_update(self.embed_tokens(tokens[:, None], cache.length[:, None])), []
        if on_gpu():
            x = pad_rows(x, MIN_GEMM_ROWS)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x, layer = block.extend(x, cache.length, layer)
            layers.append(layer)
        return self.logits(self.norm(x))[: len(tokens), 0], Cache(tuple(layers), cache.length + 1)

    def embed_tokens(self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """The token's row of the table, plus the position's where positions are learned."""
        x = self.embed[...][tokens]  # gathered in float32: its gradient is a sum over occurrences
        if self.position is not None:
            x = x + self.position[...][positions]
        return x.astype(self.config.dtype)

    def logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Scores over the vocabulary in float32; the table's padding rows are cut off."""
        table = self.output_table.astype(x.dtype)
        logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
        return logits[..., : self.config.vocab_size]

    @property
    def output_table(self) -> Float[Array, "V D"]:
        """The head's matrix, padding rows included: the embedding table where they are tied."""
        return (self.embed if self.head is None else self.head)[...]


def run(
    blocks: Sequence[Block],
    x: Float[Array, "B T D"],
    positions: Int[Array, "B T"],
    keys: DropoutKeys,
    *,
    scan: bool,
    ready: Ready = identity,
    remat: Remat = "none",
) -> Float[Array, "B T D"]:
    """Apply the blocks in order. Whatever the strategy, the same numbers.

    In a program equal blocks are traced and written once; the compiler puts them back where they are called. With
    `scan`, one period of the blocks is compiled instead of all. `ready` makes a block's parameters whole just before
    they are used, and `remat` says what the backward pass computes again.
    """

    def apply(block: Block, x: Array, positions: Array, keys: DropoutKeys, layer: int | Array) -> Array:
        return ready(block)(x, positions, fold_keys(keys, layer))

    apply = checkpoint_block(apply, remat)
    if isinstance(x, jax.core.Tracer):  # operation by operation, all blocks use the same programs anyway
        apply = jax.jit(apply)

    def turn(x: Array, group: Sequence[Block], first: int | Array) -> Array:
        for offset, block in enumerate(group):
            x = apply(block, x, positions, keys, first + offset)
        return x

    size = period = smallest_period([(block.attn.window, block.attn.scale) for block in blocks])
    if remat == "full":  # of L layers about sqrt(L) are kept, and as many made again at a time
        size *= max(1, round(len(blocks) ** 0.5 / period))
        turn = jax.checkpoint(turn)
    turns = len(blocks) // size if scan else 0
    if turns:
        stacked = [
            jax.tree.map(lambda *layers: jnp.stack(layers), *blocks[offset : turns * size : size])
            for offset in range(size)
        ]
        x, _ = jax.lax.scan(lambda x, at: (turn(x, *at), None), x, (stacked, size * jnp.arange(turns)))
    for first in range(turns * size, len(blocks), size):
        x = turn(x, blocks[first : first + size], first)
    return x


def smallest_period(items: Sequence[object]) -> int:
    """The least p with items[i] == items[i + p] throughout."""
    return next(p for p in range(1, len(items) + 1) if all(a == b for a, b in zip(items, items[p:], strict=False)))


def layer_norm(config: GPTConfig) -> LayerNorm:
    """A LayerNorm over the residual stream."""
    return LayerNorm(config.d_model, epsilon=config.layer_norm_epsilon, bias=config.bias)


def residual_stddev(config: GPTConfig) -> float:
    """GPT-2 scales what enters the residual stream by 1/sqrt(number of residual layers), two to a block."""
    return INIT_STDDEV * (2 * config.num_layers) ** -0.5


def position_table(config: GPTConfig, rngs: PRNGSequence) -> Float[Array, "T D"]:
    """A row for each position."""
    return POSITION_STDDEV * jax.random.normal(rngs.params(), (config.context_length, config.d_model))


def vocabulary_table(config: GPTConfig, rngs: PRNGSequence) -> Float[Array, "V D"]:
    """A row for each token; the padding rows are zero and stay so, since their gradient is zero."""
    table = INIT_STDDEV * jax.random.normal(rngs.params(), (config.vocab_size, config.d_model))
    return jnp.pad(table, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))


def abstract_model(config: GPTConfig) -> GPT:
    """The model's shapes without its numbers."""
    return jax.tree.map(lambda leaf: leaf, _traced(config))  # a copy: a module can be changed


@cache
def _traced(config: GPTConfig) -> GPT:
    """Tracing gpt2-xl takes a second, and a start asks several times."""
    return jax.eval_shape(lambda: GPT(config, rngs=nnx.Rngs(0)))


def num_parameters(model: GPT) -> int:
    """How many numbers are learned; the tied head counts once, padding rows not at all. Works on an abstract model."""
    padding = (model.config.padded_vocab_size - model.config.vocab_size) * model.config.d_model
    tables = 1 if model.head is None else 2
    return sum(leaf.size for leaf in jax.tree.leaves(model)) - tables * padding


def named_parameters(model: GPT) -> dict[str, Any]:
    """Every parameter by its path, such as blocks.3.attn.query.kernel; of an abstract model, the shapes."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def path_name(path: tuple[Any, ...]) -> str:
    """The words that lead to a leaf, such as blocks.3.attn.query.kernel."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
