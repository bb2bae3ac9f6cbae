"""Causal attention (Vaswani et al. 2017, eq. 1) with grouped heads (Ainslie et al. 2023) and windows.

Every backend computes the same function: query t attends to keys max(0, t - W + 1) ... t, and query head n to
key-value head n // (N / K).
"""

from jaxgpt.ops.attention.backends import MASKED, DocStarts, causal_mask
from jaxgpt.ops.attention.decode import DECODERS, decode_attention
from jaxgpt.ops.attention.select import BACKENDS, causal_attention, select_backend

__all__ = [
    "BACKENDS",
    "DECODERS",
    "MASKED",
    "DocStarts",
    "causal_attention",
    "causal_mask",
    "decode_attention",
    "select_backend",
]
