"""The two compiled programs: one reads prompts and draws a token, one decodes; a cache between them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

from jaxgpt.inference.decode import decode_step
from jaxgpt.inference.sampling import TOP, Drawn, Kind, Sampling, row_keys, sample
from jaxgpt.model.cache import Cache
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.cache_update import bfloat16_as_uint16, uint16_as_bfloat16
from jaxgpt.ops.platform import on_gpu, platform_jit


class State(NamedTuple):
    """Texts that are being continued."""

    token: Int[Array | np.ndarray, " B"]
    """The newest token of each text, drawn and not read yet."""
    drawn: Int[Array | np.ndarray, " B"]
    """How many tokens each row has drawn."""
    stopped: Bool[Array | np.ndarray, " B"]
    """Whether a row has drawn a stop token; it is filled with it from then on."""
    cache: Cache
    """On a CPU its bfloat16 arrays are bitcast to uint16 (`bfloat16_as_uint16`)."""
    seen: Bool[Array, "B V"] | None
    """The tokens that each text has; for a penalty on repetition."""


class Rules(NamedTuple):
    """How the rows are to be continued; arguments, so that no setting needs another program."""

    sampling: Sampling
    seeds: UInt32[Array | np.ndarray, "B 3"]
    stop_tokens: Int[Array | np.ndarray, " K"]
    """-1 is no token."""
    num_tokens: Int[Array | np.ndarray, ""]
    """Ids from here on are never drawn: rows of the table that no text has."""


@partial(platform_jit, static_argnames=("capacity", "kind", "logprobs"))
def prefill(
    model: GPT,
    tokens: Int[Array | np.ndarray, "B T"],
    length: Int[Array | np.ndarray, " B"],
    token: Int[Array | np.ndarray, " B"],
    drawn: Int[Array | np.ndarray, " B"],
    stopped: Bool[Array | np.ndarray, " B"],
    rules: Rules,
    *,
    capacity: int,
    kind: Kind,
    logprobs: bool = False,
) -> tuple[Drawn, State]:
    """Read texts, padded on the right after `length` tokens, and draw the next token of each that has not stopped."""
    tokens, length = jnp.asarray(tokens), jnp.asarray(length)
    logits, cache = model.prefill(tokens, length, capacity)
    seen = _seen(tokens, length, logits.shape[-1]) if kind == "filtered" else None
    state = State(jnp.asarray(token), jnp.asarray(drawn), jnp.asarray(stopped), bfloat16_as_uint16(cache), seen)
    return _draw(logits, state, rules, row_keys(rules.seeds), kind=kind, logprobs=logprobs)


@partial(platform_jit, static_argnames=("room", "kind", "logprobs", "fused"), donate_argnames="state")
def decode(
    model: GPT,
    state: State,
    rules: Rules,
    count: Int[Array | np.ndarray, ""],
    *,
    room: int,
    kind: Kind,
    logprobs: bool = False,
    fused: bool = False,
) -> tuple[Drawn, Int[Array, ""], State]:
    """Draw `count` tokens of each row, at most `room`; fewer where every row has stopped. Also returns how many."""
    keys, read = row_keys(rules.seeds), _decode_step(fused=fused)
    rows = state.token.shape[0]

    def going(carry: tuple[Drawn, Array, State]) -> Array:
        return (carry[1] < count) & ~carry[2].stopped.all()

    def advance(carry: tuple[Drawn, Array, State]) -> tuple[Drawn, Array, State]:
        for _ in range(tokens_per_turn()):
            drawn, number, state = carry
            logits, cache = read(model, state.token, uint16_as_bfloat16(state.cache))
            state = state._replace(cache=bfloat16_as_uint16(cache))
            new, state = _draw(logits, state, rules, keys, kind=kind, logprobs=logprobs)
            drawn = jax.tree.map(lambda kept, one, at=number: kept.at[:, at].set(one), drawn, new)
            carry = drawn, number + 1, state
        return carry

    top = min(TOP, model.config.vocab_size)
    room_for = [((rows, room), jnp.float32), ((rows, room, top), jnp.int32), ((rows, room, top), jnp.float32)]
    drawn = Drawn(jnp.zeros((rows, room), jnp.int32), *(jnp.zeros(*each) for each in room_for if logprobs))
    return jax.lax.while_loop(going, advance, (drawn, jnp.int32(0), state))


def tokens_per_turn() -> int:
    """On a GPU each loop condition is a host sync that takes longer than a token, so the loop is unrolled four times.

    A last turn may draw beyond `count`; the caller leaves that out, and ends there or reads the text again.
    """
    return 4 if on_gpu() else 1


def _draw(
    logits: Float[Array, "B V"], state: State, rules: Rules, keys: Array, *, kind: Kind, logprobs: bool
) -> tuple[Drawn, State]:
    """A token of each row, and the state with it."""
    logits = jnp.where(jnp.arange(logits.shape[1])[None] < rules.num_tokens, logits, -jnp.inf)
    new = sample(logits, keys, jnp.asarray(state.drawn), rules.sampling, state.seen, kind=kind, logprobs=logprobs)
    token = jnp.where(state.stopped, state.token, new.token)
    stops = jnp.asarray(rules.stop_tokens)
    stopped = state.stopped | (token[:, None] == stops[None]).any(axis=-1)
    seen = None if state.seen is None else state.seen.at[jnp.arange(len(token)), token].set(True)
    return new._replace(token=token), State(token, state.drawn + 1, stopped, state.cache, seen)


def _seen(tokens: Int[Array, "B T"], length: Int[Array, " B"], vocab_size: int) -> Bool[Array, "B V"]:
    """Which tokens each text has, its padding left out."""
    rows, columns = jnp.arange(tokens.shape[0])[:, None], jnp.arange(tokens.shape[1])[None]
    real = columns < length[:, None]
    return jnp.zeros((tokens.shape[0], vocab_size), bool).at[rows, tokens].max(real)


def _decode_step(*, fused: bool) -> Callable[..., tuple[Array, Cache]]:
    """How a token is read."""
    if not fused:
        return decode_step
    from jaxgpt.inference import fused as kernels

    return kernels.decode_step
