"""Continue texts: all at once, or one as it is made."""

from collections.abc import Iterator, Sequence

import numpy as np
from jax import Array
from jaxtyping import Int, Integer

from jaxgpt.config import Weights
from jaxgpt.errors import UserError
from jaxgpt.inference import buckets
from jaxgpt.inference.settings import Settings, make_rules, row_seeds
from jaxgpt.inference.texts import Texts, as_prompts, check_prompts
from jaxgpt.model.gpt import GPT

Prompts = Integer[Array | np.ndarray, "B T"] | Sequence[Sequence[int] | Integer[np.ndarray, " _"]]
PIECE = 16
"""How many tokens a stream makes at a time."""


def generate(
    model: GPT,
    tokens: Prompts,
    max_new_tokens: int,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int | Sequence[int] = 0,
    stop_token: int | Sequence[int] | None = None,
    fused: bool = False,
    *,
    slide: bool = False,
    min_p: float | int | None = None,
    repetition_penalty: float | int = 1.0,
    num_tokens: int | None = None,
    weights: Weights | None = None,
) -> Int[np.ndarray, "B S"]:
    """Continue each prompt by max_new_tokens; returns prompt and continuation, [B, T + new].

    temperature, top_k, top_p, min_p and repetition_penalty are those of `Settings`; temperature=0 is greedy.
    Row i draws by (seed, i), or by (seed[i], 0) where there is a seed for each: no row depends on another.
    After a stop_token a row is filled with it. Ids from num_tokens on are never drawn.
    Prompts of different lengths, given as lists, are padded with token 0 on the left.
    With `slide`, a text that has reached the context length goes on from its last half, which is read again.
    `fused` decodes by the kernels of ops/decode_kernels.py, on an NVIDIA GPU. `weights` are kept as bf16 or int8
    (inference/weights.py); None: in the model's dtype.

    Raises UserError on an empty prompt, a token the model does not know, a text too long for it, a setting outside
    its range, or where the kernels cannot run.

    Example:
        >>> import jaxgpt
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> jaxgpt.generate(model, [[1, 2, 3]], max_new_tokens=5, temperature=0).shape
        (1, 8)
    """
    prompts = as_prompts(tokens)
    settings = Settings(temperature, top_k, top_p, min_p, repetition_penalty)
    check_prompts(model.config, prompts, max_new_tokens, slide=slide, fused=fused)
    width = max(len(prompt) for prompt in prompts)
    padded = np.stack([np.pad(prompt, (width - len(prompt), 0)) for prompt in prompts]).astype(np.int32)
    if max_new_tokens == 0:
        return padded
    texts = begin(model, prompts, max_new_tokens, settings, seed, stop_token, num_tokens, fused=fused, weights=weights)
    new = np.concatenate([piece.token for piece in texts.pieces()], axis=1)
    filled = np.pad(new, ((0, 0), (0, max_new_tokens - new.shape[1])), mode="edge")  # fewer where all have stopped
    return np.concatenate([padded, filled], axis=1)


def stream(
    model: GPT,
    tokens: Sequence[int] | Integer[Array | np.ndarray, " T"],
    max_new_tokens: int,
    temperature: float | int = 1.0,
    top_k: int | None = None,
    top_p: float | int | None = None,
    seed: int = 0,
    stop_token: int | Sequence[int] | None = None,
    fused: bool = False,
    *,
    slide: bool = False,
    min_p: float | int | None = None,
    repetition_penalty: float | int = 1.0,
    num_tokens: int | None = None,
    weights: Weights | None = None,
) -> Iterator[int]:
    """The new tokens of one prompt as they are made, the same that `generate` makes; ends before a stop_token.

    Raises UserError as `generate` does, when it is called.

    Example:
        >>> import jaxgpt
        >>> from flax import nnx
        >>> model = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
        >>> len(list(jaxgpt.stream(model, [1, 2, 3], max_new_tokens=5)))
        5
    """
    prompts = as_prompts([tokens])
    settings = Settings(temperature, top_k, top_p, min_p, repetition_penalty)
    check_prompts(model.config, prompts, max_new_tokens, slide=slide, fused=fused)
    texts = begin(model, prompts, max_new_tokens, settings, seed, stop_token, num_tokens, fused=fused, weights=weights)
    return _until(texts, set(as_stops(stop_token)))


def begin(
    model: GPT,
    prompts: Sequence[np.ndarray],
    new_tokens: int,
    settings: Settings,
    seed: int | Sequence[int] = 0,
    stop_token: int | Sequence[int] | None = None,
    num_tokens: int | None = None,
    *,
    fused: bool = False,
    weights: Weights | None = None,
) -> Texts:
    """Texts that are ready to grow; their number is rounded up to few.

    Raises UserError where `fused` is to read other weights than the model's.
    """
    if fused and weights is not None:
        raise UserError(f"fused decoding reads the model's own weights; leave out fused or weights={weights!r}")
    rows, size = buckets.rows(len(prompts)), model.config.vocab_size
    rules = make_rules(
        rows,
        [settings] * len(prompts),
        row_seeds(seed, len(prompts)),
        as_stops(stop_token),
        size if num_tokens is None else min(num_tokens, size),
    )
    return Texts(model, prompts, new_tokens, rules, settings.kind, fused=fused, weights=weights)


def as_stops(stop_token: int | Sequence[int] | None) -> tuple[int, ...]:
    """None, one or several tokens, as several."""
    if stop_token is None:
        return ()
    return (int(stop_token),) if isinstance(stop_token, int | np.integer) else tuple(map(int, stop_token))


def _until(texts: Texts, stops: set[int]) -> Iterator[int]:
    for piece in texts.pieces(PIECE):
        for token in piece.token[0].tolist():
            if token in stops:
                return
            yield token
