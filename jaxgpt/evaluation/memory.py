"""How many windows fit a device at once."""

from typing import Literal

import jax

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.runtime.host_memory import host_memory_limit

AUTO_TOKENS = {"cpu": 8 * 1024, "gpu": 64 * 1024, "tpu": 64 * 1024}
"""Tokens in a batch after which a device does not become faster, for `auto`."""


def largest_batch(config: GPTConfig, length: int, batch_size: int | Literal["auto"], *, devices: int) -> int:
    """Rows of `length` tokens: batch_size, or for `auto` as many as fit. Raises UserError where they cannot."""
    limit = memory_of_a_device()
    needed = bytes_per_row(config, length)
    if batch_size == "auto":
        fit = int(min(AUTO_TOKENS.get(jax.default_backend(), 8192) // length, limit / 4 // needed))
        return max(1, fit) * devices
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size} computes nothing: use at least 1, or 'auto'")
    rows = -(-batch_size // devices)
    if rows * needed > limit:
        raise UserError(
            f"batch_size={batch_size} needs at least {rows * needed / 1e9:,.0f} GB on each device, which has "
            f"{limit / 1e9:,.0f} GB: use {max(1, int(limit / 4 // needed)) * devices} or less, or 'auto'"
        )
    return batch_size


def bytes_per_row(config: GPTConfig, length: int) -> int:
    """A lower bound of what a window needs: the residual stream, q, k, v and the feed-forward layer of one block."""
    width = 3 * config.d_model + 2 * config.kv_heads * config.head_dim + config.mlp_width
    return 4 * length * width


def memory_of_a_device() -> int:
    """Bytes that a device may use; of a CPU, what this process may have of the machine's memory."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or host_memory_limit()
