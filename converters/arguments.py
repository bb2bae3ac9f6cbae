"""The flags of `jaxgpt convert` and `jaxgpt verify`; reading them imports no jax."""

import dataclasses
from pathlib import Path
from typing import Literal

from jaxgpt.config import Activation, Position

Step = Literal["latest", "best"] | int
Format = Literal["auto", "gpt2", "gpt_bigcode", "starcoder2", "nanogpt", "llm.c", "gguf", "jaxgpt", "peft"]


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write a model as a folder that another library opens, with other attention if you like."""

    source: str
    """A Hugging Face folder or hub id, a weights file (GGUF and ckpt.pt too), or a run folder."""
    folder: Path
    """Where to write; must not exist, or be empty."""
    step: Step = "latest"
    """Which checkpoint of a run: the latest, the best (lowest validation loss), or the one of a step."""
    architecture: Format = "auto"
    """The format to export. auto: gpt_bigcode for multi-query, gpt2 for learned positions, starcoder2 for rotary.
    peft: the adapters of a run alone."""
    dtype: Literal["float32", "bfloat16", "float16", "f32", "fp32", "bf16", "f16", "fp16", "q8_0"] = "float32"
    """What the weights are stored in; q8_0 is for gguf alone."""
    num_kv_heads: int | None = None
    """Pool the key-value heads to so many."""
    kv_init: Literal["mean", "first", "svd"] = "mean"
    """How heads are pooled: their average, the first of each group, or the nearest subspace."""
    position: Position | None = None
    """Give up the learned positions for these."""
    window: int | None = None
    """Let each query see so many keys, itself included."""
    activation: Activation | None = None
    """Another nonlinearity: nanogpt has the exact gelu, llm.c gelu_tanh; between these two outputs change little."""
    data: Path | None = None
    """A text; prints the loss on it before and after the change."""
    shard_size: str = "5GB"
    """The largest file of weights, as 500MB or 2GB; more are split into several and an index."""
    dry_run: bool = False
    """Print what would be written and what would change, and write nothing."""
    verify: bool = False
    """Compare what was written with transformers before it takes its name; the model card shows the certificate."""
    push_to: str | None = None
    """Upload the finished folder, its model card included, to this OWNER/NAME of the Hugging Face hub."""
    allow_nonfinite: bool = False
    """Take weights that are NaN or infinite as they are."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Compare a model here with the same one in transformers, number by number."""

    source: str
    """A Hugging Face folder or hub id, a weights file (GGUF and ckpt.pt too), or a run folder."""
    step: Step = "latest"
    """Which checkpoint of a run: the latest, the best (lowest validation loss), or the one of a step."""
    against: str | None = None
    """Another source, whose model in transformers is compared with. None: the source itself."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What our model computes in; the bounds follow it."""
    json: bool = False
    """Print one JSON object instead of a table."""
