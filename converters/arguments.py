"""The flags of `jaxgpt convert` and `jaxgpt verify`; reading them imports no jax."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxgpt.config import Position


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write a model as a folder that transformers opens, with other attention if you like."""

    source: str
    """A Hugging Face folder or hub id, a weights file, or a run folder."""
    folder: Path
    """Where to write; must not exist, or be empty."""
    architecture: Literal["auto", "gpt2", "gpt_bigcode", "starcoder2", "nanogpt", "llm.c"] = "auto"
    """The format to export. auto: gpt_bigcode for multi-query, gpt2 for learned positions, starcoder2 for rotary."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the weights are stored in."""
    num_kv_heads: int | None = None
    """Pool the key-value heads to so many."""
    kv_init: Literal["mean", "first", "svd"] = "mean"
    """How heads are pooled: their average, the first of each group, or the nearest subspace."""
    position: Position | None = None
    """Give up the learned positions for these."""
    window: int | None = None
    """Let each query see so many keys, itself included."""
    data: Path | None = None
    """A text; prints the loss on it before and after the change."""
    verify: bool = False
    """Compare what was written with transformers before it takes its name; the model card shows the certificate."""
    allow_nonfinite: bool = False
    """Take weights that are NaN or infinite as they are."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Compare a model here with the same one in transformers, number by number."""

    source: str
    """A Hugging Face folder or hub id, a weights file, or a run folder."""
    against: str | None = None
    """The folder or hub id that transformers opens. None: the source itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What our model computes in; the bounds follow it."""
    json: bool = False
    """Print one JSON object instead of a table."""
