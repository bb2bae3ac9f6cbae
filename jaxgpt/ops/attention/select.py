"""Which attention backend runs."""

from collections.abc import Callable

from jax import Array

from jaxgpt.config import Backend
from jaxgpt.errors import UserError
from jaxgpt.ops.attention.backends import DocStarts, Keys, Queries, banded, cudnn, xla
from jaxgpt.ops.attention.blocked import BLOCK, blocked
from jaxgpt.ops.dropout import DropoutKey
from jaxgpt.ops.platform import on_gpu, target_platform

BACKENDS: dict[str, Callable[..., Array]] = {"xla": xla, "blocked": blocked, "banded": banded, "cudnn": cudnn}


def causal_attention(
    q: Queries,
    k: Keys,
    v: Keys,
    window: int | None,
    scale: float,
    backend: Backend = "auto",
    dropout_rate: float = 0.0,
    dropout_key: DropoutKey = None,
    doc_starts: DocStarts = None,
) -> Queries:
    """softmax(scale q kT) v, each query over itself and the keys before it, at most `window` in all.

    q is [B, T, N, H]; k and v are [B, T, K, H], where K divides N. doc_starts never falls along a text, so that
    documents lie one after another. Raises UserError where a backend asked for by name
    cannot do it.

    >>> import jax.numpy as jnp
    >>> q = k = v = jnp.ones((1, 4, 2, 8))
    >>> causal_attention(q, k, v, window=None, scale=8**-0.5).shape
    (1, 4, 2, 8)
    """
    rate = 0.0 if dropout_key is None else dropout_rate
    name = select_backend(
        backend,
        platform=target_platform(),
        dtype=q.dtype.name,
        head_dim=q.shape[3],
        length=q.shape[1],
        dropout=rate,
        documents=doc_starts is not None,
    )
    rule = {"window": window, "scale": scale, "dropout_rate": rate, "dropout_key": dropout_key}
    return BACKENDS[name](q, k, v, **rule, doc_starts=doc_starts)


def select_backend(
    name: Backend,
    *,
    platform: str,
    dtype: str,
    head_dim: int,
    length: int,
    dropout: float,
    documents: bool = False,
) -> str:
    """The backend that runs for `name`.

    auto: cudnn where it can; elsewhere blocked for a text of several blocks, and xla for a shorter one.
    Raises UserError where a backend asked for by name cannot do it.
    """
    refusal = _cudnn_refusal(platform, dtype, head_dim, dropout, documents)
    if name == "cudnn" and refusal:
        raise UserError(f"attention='cudnn' cannot run here: {refusal}; change that, or use attention='auto'")
    if name != "auto":
        return name
    if not refusal:
        return "cudnn"
    return "blocked" if length > BLOCK else "xla"


def _cudnn_refusal(platform: str, dtype: str, head_dim: int, dropout: float, documents: bool) -> str | None:
    if not on_gpu(platform):
        return f"the platform is {platform}, not an NVIDIA GPU"
    if dtype != "bfloat16":
        return f"dtype={dtype} is not bfloat16"
    if head_dim % 8 or head_dim > 256:
        return f"the head size {head_dim} is not a multiple of 8 up to 256"
    if dropout:
        return f"dropout={dropout} is not 0"
    if documents:
        return "documents are masked, and jax gives cuDNN no mask without the T x T scores"
    return None
