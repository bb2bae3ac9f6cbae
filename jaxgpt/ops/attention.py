"""Causal attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023) and windows, by backend.

Every backend computes the same function: query t sees the keys max(0, t - W + 1) ... t, and query head n reads
key-value head n // (N / K).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxgpt.config import Backend
from jaxgpt.model.layers import DropoutKeys, dropout
from jaxgpt.ops.frugal import softmax

Queries = Float[Array, "B T N H"]
Keys = Float[Array, "B S K H"]

_platform: ContextVar[str | None] = ContextVar("platform", default=None)

MASKED = jnp.finfo(jnp.float32).min
"""The score of a key that must not be seen. Finite, so that a padding row without any key gives no NaN."""


def attend(
    q: Queries,
    k: Keys,
    v: Keys,
    seen: Bool[Array, "#B T S"],
    *,
    scale: float,
    rate: float = 0.0,
    drop: DropoutKeys = None,
) -> Queries:
    """softmax(scale q kT) v over the keys that `seen` allows; scores and softmax in float32."""
    batch, length, heads, size = q.shape
    grouped = q.reshape(batch, length, k.shape[2], heads // k.shape[2], size)
    scores = scale * jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    weights = softmax(jnp.where(seen[:, None, None], scores, MASKED))
    weights = dropout(weights, rate, drop).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(q.shape)


def causal_mask(queries: Int[Array, "#B T"], keys: Int[Array, "#B S"], window: int | None) -> Bool[Array, "#B T S"]:
    """Which key positions each query position sees. A negative key position is no token."""
    behind = queries[:, :, None] - keys[:, None, :]
    seen = (behind >= 0) & (keys >= 0)[:, None, :]
    return seen if window is None else seen & (behind < window)


def xla(q: Queries, k: Keys, v: Keys, *, window: int | None, scale: float, rate: float, drop: DropoutKeys) -> Queries:
    """All T x T scores at once."""
    steps = jnp.arange(q.shape[1])[None]
    return attend(q, k, v, causal_mask(steps, steps, window), scale=scale, rate=rate, drop=drop)


def banded(
    q: Queries, k: Keys, v: Keys, *, window: int | None, scale: float, rate: float, drop: DropoutKeys
) -> Queries:
    """Blocks of W queries against their own and the previous block of keys: 2 T W scores instead of T T."""
    batch, length = q.shape[:2]
    assert window is not None, "GPTConfig refuses this"
    blocks = -(-length // window)

    def fold(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, blocks * window - length), (0, 0), (0, 0)))
        return x.reshape(batch * blocks, window, *x.shape[2:])

    def with_previous(x: Array) -> Array:
        x = fold(x).reshape(batch, blocks, window, *x.shape[2:])
        previous = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        return jnp.concatenate([previous, x], axis=2).reshape(batch * blocks, 2 * window, *x.shape[3:])

    steps = jnp.arange(blocks * window).reshape(blocks, window)
    seen = causal_mask(steps, jnp.concatenate([steps - window, steps], axis=1), window)
    seen = jnp.tile(seen, (batch, 1, 1))
    if drop is not None:
        drop = jax.vmap(partial(jax.random.split, num=blocks))(drop).reshape(-1)
    mixed = attend(fold(q), with_previous(k), with_previous(v), seen, scale=scale, rate=rate, drop=drop)
    return mixed.reshape(batch, blocks * window, *q.shape[2:])[:, :length]


def cudnn(q: Queries, k: Keys, v: Keys, *, window: int | None, scale: float, rate: float, drop: DropoutKeys) -> Queries:
    """NVIDIA's fused attention: no T x T matrix in memory."""
    del rate, drop  # `choose` refuses dropout here
    # The pair excludes the query itself; without is_causal a window would attend to the future.
    look_back = None if window is None else (window - 1, 0)
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, is_causal=True, local_window_size=look_back, implementation="cudnn"
    )


def decode(q: Queries, k: Keys, v: Keys, seen: Int[Array, " B"], *, scale: float) -> Queries:
    """One query a row, T = 1, against the first `seen` keys of its row."""
    return attend(q, k, v, (jnp.arange(k.shape[1])[None] < seen[:, None])[:, None], scale=scale)


def cudnn_decode(q: Queries, k: Keys, v: Keys, seen: Int[Array, " B"], *, scale: float) -> Queries:
    """The same by NVIDIA's fused attention, which writes no scores."""
    return jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        query_seq_lengths=jnp.ones_like(seen),
        key_value_seq_lengths=seen,
        implementation="cudnn",
    )


DECODERS: dict[str, Callable[..., Array]] = {"xla": decode, "cudnn": cudnn_decode}
"""cuDNN's has never run: it is taken where attention='cudnn' asks for it by name."""
BACKENDS: dict[str, Callable[..., Array]] = {"xla": xla, "banded": banded, "cudnn": cudnn}


def target_platform() -> str:
    """What the program being traced will run on: the default backend, unless `compiling_for` says otherwise."""
    return _platform.get() or jax.default_backend()


def on_gpu(platform: str | None = None) -> bool:
    """Whether that is an NVIDIA GPU."""
    return (platform or target_platform()) in ("gpu", "cuda")


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within, models are traced for `platform` ("cuda", "cpu"), as when compiling for devices that are not here.

    jax.jit does not know of it: inside, trace a function that was jitted anew.
    """
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)


def choose(
    name: Backend, *, platform: str, dtype: str, head_dim: int, window: int | None, length: int, dropout: float
) -> str:
    """The backend that `name` stands for. Raises ValueError where a backend asked for by name cannot do it."""
    refusal = _cudnn_refusal(platform, dtype, head_dim, dropout)
    if name == "cudnn" and refusal:
        raise ValueError(f"attention='cudnn' cannot run here: {refusal}; change that, or use attention='auto'")
    if name != "auto":
        return name
    if not refusal:
        return "cudnn"
    return "banded" if window is not None and length > 2 * window else "xla"


def _cudnn_refusal(platform: str, dtype: str, head_dim: int, dropout: float) -> str | None:
    if not on_gpu(platform):
        return f"the platform is {platform}, not an NVIDIA GPU"
    if dtype != "bfloat16":
        return f"dtype={dtype} is not bfloat16"
    if head_dim % 8 or head_dim > 256:
        return f"the head size {head_dim} is not a multiple of 8 up to 256"
    if dropout:
        return f"dropout={dropout} is not 0"
    return None
