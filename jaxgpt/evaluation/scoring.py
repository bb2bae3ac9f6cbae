"""Log-likelihoods of texts: of continuations, and of whole documents of any length.

Windows are sorted by length and computed in batches of a few shapes, so that a whole task compiles a handful of
programs. Padding is on the right, where causal attention never sees it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.evaluation.memory import largest_batch
from jaxgpt.evaluation.windows import Tokens, Window, as_tokens, continuation_window, rolling_windows, window_length
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.argmax import argmax

BatchSize = int | Literal["auto"]
CHUNK = 512
"""Tokens whose logits exist at once on a device: at a vocabulary of 50304 they take 103 MB in float32."""
LENGTHS = (32, 64, 128, 256, 384, 512, 768)
"""A batch is padded to the least of these, or else to the model's whole context."""
PREDICTED = (8, 32, 128)
"""How many predicted tokens a row has: the least of these, or else as many as it reads."""


class Scored(NamedTuple):
    """What a model makes of a continuation."""

    logprob: float
    """ln p(continuation | context), summed over its tokens."""
    is_greedy: bool
    """Whether each token was the likeliest one."""
    truncated: int
    """How many tokens of the context did not fit, and were left out on the left."""


class TokenScores(NamedTuple):
    """The predicted tokens of one window."""

    logprobs: Float[np.ndarray, " N"]
    greedy: Bool[np.ndarray, " N"]


def loglikelihood(
    model: GPT,
    contexts: Sequence[Tokens],
    continuations: Sequence[Tokens],
    *,
    batch_size: BatchSize = "auto",
    progress: Callable[[int], object] | None = None,
) -> list[Scored]:
    """The log-likelihood of each continuation after its context, in nats, in the order given.

    Contexts and continuations are token ids. Where a context does not fit, its beginning is left out. The model may be
    on one device or cut over a mesh. `progress` is called with the number of windows done since the last call.

    Raises UserError where a context or continuation is empty, a continuation does not fit the model's context, or a
    token is not in the vocabulary.

    Example:
        >>> import jaxgpt
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> yes, no = jaxgpt.loglikelihood(model, [[5, 6, 7], [5, 6, 7]], [[8], [9, 10]])
        >>> -20 < yes.logprob < 0
        True
    """
    config = model.config
    length = window_length(config)
    if len(contexts) != len(continuations):
        raise UserError(f"{len(contexts)} contexts and {len(continuations)} continuations: give one for each")
    befores = as_tokens(contexts, config.vocab_size, "contexts")
    afters = as_tokens(continuations, config.vocab_size, "continuations")
    for i, (before, after) in enumerate(zip(befores, afters)):
        if not len(before) or not len(after):
            which = "continuations" if len(before) else "contexts"
            raise UserError(f"{which}[{i}] is empty: give at least one token, such as the tokenizer's end_of_text")
        if len(after) > length:
            raise UserError(
                f"continuations[{i}] has {len(after)} tokens and context_length is {length}: "
                "shorten it, or use rolling_loglikelihood"
            )
    windows = [
        continuation_window(np.asarray(before), np.asarray(after), length) for before, after in zip(befores, afters)
    ]
    scores = score_windows(model, windows, batch_size=batch_size, progress=progress)
    return [
        Scored(
            float(score.logprobs.sum(dtype=np.float64)),
            bool(score.greedy.all()),
            len(before) + len(after) - len(window.tokens),
        )
        for score, window, before, after in zip(scores, windows, befores, afters)
    ]


def rolling_loglikelihood(
    model: GPT,
    documents: Sequence[Tokens],
    *,
    prefix: int | None = None,
    stride: int | None = None,
    batch_size: BatchSize = "auto",
    progress: Callable[[int], object] | None = None,
) -> list[float]:
    """The log-likelihood of each document, of any length, in nats, in the order given.

    Every token is predicted exactly once. Windows of context_length tokens move on by `stride` tokens (None: by whole
    windows): with a smaller stride a token has at least context_length - stride tokens before it, and the cost is
    context_length / stride times as high. `prefix` is a token put before each document, such as the tokenizer's
    end_of_text; without it the first token of a document is not predicted.

    Raises UserError where nothing is to be predicted, `stride` is not between 1 and context_length, or a token is not
    in the vocabulary.

    Example:
        >>> import jaxgpt
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> (nats,) = jaxgpt.rolling_loglikelihood(model, [list(range(90))])
        >>> -20 * 89 < nats < 0
        True
    """
    windows = document_windows(model.config, documents, prefix=prefix, stride=stride)
    flat = [window for group in windows for window in group]
    scores = iter(score_windows(model, flat, batch_size=batch_size, progress=progress))
    return [sum(float(next(scores).logprobs.sum(dtype=np.float64)) for _ in group) for group in windows]


def document_windows(
    config: GPTConfig, documents: Sequence[Tokens], *, prefix: int | None = None, stride: int | None = None
) -> list[list[Window]]:
    """The windows of each document. Raises UserError as `rolling_loglikelihood` does."""
    length = window_length(config)
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise UserError(f"stride={stride} must be between 1 and context_length={length}")
    texts = as_tokens(documents, config.vocab_size, "documents")
    if prefix is not None:
        (first,) = as_tokens([[prefix]], config.vocab_size, "prefix")
        texts = [np.concatenate([first, text]) for text in texts]
    for i, text in enumerate(texts):
        if len(text) < 2:
            raise UserError(
                f"documents[{i}] has {len(documents[i])} tokens: nothing is left to predict; leave it out or add text"
            )
    return [rolling_windows(text, length, stride) for text in texts]


def score_windows(
    model: GPT,
    windows: Sequence[Window],
    *,
    batch_size: BatchSize = "auto",
    progress: Callable[[int], object] | None = None,
) -> list[TokenScores]:
    """The log-probability of each predicted token of each window, and whether it was the likeliest token.

    Raises UserError where a batch of that size cannot fit the device's memory.
    """
    length = window_length(model.config)
    sharding = batch_placement(model)
    largest = largest_batch(model.config, length, batch_size, devices=sharding.num_devices)
    found: list[TokenScores | None] = [None] * len(windows)
    for members, T, S in _groups(windows, length):
        rows = _rows(len(members), T, length, largest, batch_size, sharding.num_devices)
        for start in range(0, len(members), rows):
            batch = members[start : start + rows]
            scores = _score_batch(model, [windows[i] for i in batch], rows, T, S, sharding)
            for i, score in zip(batch, scores):
                found[i] = score
            if progress:
                progress(len(batch))
    return [score for score in found if score is not None]


def batch_placement(model: GPT) -> jax.sharding.Sharding:
    """Where a batch lies: its rows over all devices of the model's mesh, or the model's one device."""
    placement = jax.tree.leaves(model)[0].sharding
    if isinstance(placement, NamedSharding) and placement.num_devices > 1:
        axes = tuple(name for name in placement.mesh.axis_names if placement.mesh.shape[name] > 1)
        return NamedSharding(placement.mesh, P(axes))
    return placement


def _groups(windows: Sequence[Window], length: int) -> Iterator[tuple[list[int], int, int]]:
    """Windows of one shape together, the longest first: so memory runs out at once or not at all."""

    def shape(i: int) -> tuple[int, int]:
        tokens, first = windows[i]
        T = next((size for size in LENGTHS if len(tokens) - 1 <= size < length), length)
        return T, next((size for size in PREDICTED if len(tokens) - first <= size < T), T)

    order = sorted(range(len(windows)), key=shape, reverse=True)
    for (T, S), members in groupby(order, key=shape):
        yield list(members), T, S


def _rows(count: int, T: int, length: int, largest: int, batch_size: BatchSize, devices: int) -> int:
    """Rows of a batch: what was asked for, or as many as the memory of whole windows holds; a multiple of devices.

    For fewer windows the next power of two: so small tasks share their programs.
    """
    rows = largest * max(1, length // T) if batch_size == "auto" else largest
    return -(-min(rows, 1 << (count - 1).bit_length()) // devices) * devices


def _score_batch(
    model: GPT, windows: list[Window], rows: int, T: int, S: int, sharding: jax.sharding.Sharding
) -> Iterator[TokenScores]:
    """The scores of windows that fit T tokens read and S predicted."""
    inputs = np.zeros((rows, T), np.int32)
    positions, targets = np.zeros((rows, S), np.int32), np.zeros((rows, S), np.int32)
    for row, (tokens, first) in enumerate(windows):
        count = len(tokens) - first
        inputs[row, : len(tokens) - 1] = tokens[:-1]
        positions[row, :count] = np.arange(first - 1, len(tokens) - 1)
        targets[row, :count] = tokens[first:]
    arrays = (_place(array, sharding) for array in (inputs, positions, targets))
    logprobs, greedy = (np.asarray(found) for found in _program(sharding)(model, *arrays))
    for row, (tokens, first) in enumerate(windows):
        count = len(tokens) - first
        yield TokenScores(logprobs[row, :count], greedy[row, :count])


def _place(array: np.ndarray, sharding: jax.sharding.Sharding) -> Array:
    return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)


def _program(sharding: jax.sharding.Sharding) -> Callable[..., tuple[Array, Array]]:
    """The compiled scorer; on a mesh every device, and so every process, gets all scores."""
    if isinstance(sharding, NamedSharding):
        return _on_mesh(NamedSharding(sharding.mesh, P()))
    return _jitted


def token_scores(
    model: GPT, tokens: Int[Array, "B T"], positions: Int[Array, "B S"], targets: Int[Array, "B S"]
) -> tuple[Float[Array, "B S"], Bool[Array, "B S"]]:
    """The log-probability of a target after each of some positions, and whether the target is the likeliest token.

    Only the logits of those positions are computed, and only a chunk of them exists at a time.
    """
    x = jnp.take_along_axis(model.hidden(tokens), positions[..., None], axis=1)
    B, S = targets.shape
    size = next(size for size in (S, 128, 32, 8, 1) if size == 1 or (B * size <= CHUNK and S % size == 0))

    def chunk(part: tuple[Array, Array]) -> tuple[Array, Array]:
        x, targets = part
        logits = model.logits(x)
        hit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        return hit - jax.nn.logsumexp(logits, axis=-1), argmax(logits) == targets

    def split(a: Array) -> Array:
        return jnp.moveaxis(a.reshape(B, S // size, size, *a.shape[2:]), 1, 0)

    logprobs, greedy = jax.lax.map(chunk, (split(x), split(targets)))
    return jnp.moveaxis(logprobs, 0, 1).reshape(B, S), jnp.moveaxis(greedy, 0, 1).reshape(B, S)


_jitted = jax.jit(token_scores)


@cache
def _on_mesh(everywhere: NamedSharding) -> Callable[..., tuple[Array, Array]]:
    return jax.jit(token_scores, out_shardings=everywhere)
