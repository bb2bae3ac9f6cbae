"""`jaxgpt evaluate`."""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from jaxgpt.config import Backend


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Loss, perplexity and bits per byte on a text."""

    source: tyro.conf.Positional[Path]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    data: str | None = None
    """stdlib, shakespeare, or the path of a text file or folder. None: what the run was trained on."""
    split: Literal["validation", "train", "all"] = "validation"
    """Which part of the text; validation is the held-back tenth."""
    batch_size: int = 8
    """Windows computed at once."""
    attention: Backend | None = None
    """Attention backend by name, such as auto where the model's own cannot run here. None: the model's own."""


def main(arguments: list[str]) -> int:
    """Print how well the model predicts the text; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt evaluate", args=arguments)
    if chosen.batch_size < 1:
        raise ValueError(f"--batch-size {chosen.batch_size} computes nothing; use at least 1")
    from jaxgpt.data import prepare
    from jaxgpt.evaluation.evaluate import evaluate, split_tokens
    from jaxgpt.loading import load_tokenizer, load_with_backend
    from jaxgpt.training.run import is_run, read_run

    if chosen.data is not None:
        data = prepare(chosen.data, load_tokenizer(chosen.source))
    elif is_run(chosen.source):
        data = read_run(chosen.source).data()
    else:
        raise ValueError(f"{chosen.source} is not a run of ours, which would know its text: name one by --data")
    tokens, bytes_per_token = split_tokens(data, chosen.split)
    model = load_with_backend(chosen.source, chosen.attention)
    found = evaluate(model, tokens, bytes_per_token, chosen.batch_size)
    Console(highlight=False).print(
        f"loss {found.loss:.4f} nats per token  perplexity {found.perplexity:.2f}  "
        f"bits per byte {found.bits_per_byte:.4f}  ({found.tokens:,} tokens)",
        soft_wrap=True,
    )
    return 0
