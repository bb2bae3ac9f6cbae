"""`jaxgpt generate`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from jaxgpt.config import Backend

if TYPE_CHECKING:
    from jaxgpt.config import GPTConfig

USUAL_LENGTH = 128


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Continue a text."""

    source: tyro.conf.Positional[Path]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    prompt: str = "\n"
    """The text to continue."""
    max_new_tokens: int | None = None
    """How many tokens to add at most; <|endoftext|> ends a sample. None: 128, or what the context has room for."""
    temperature: float = 0.8
    """0: always the likeliest token. 1: as the model says."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together have this probability."""
    seed: int = 0
    """The same seed gives the same text."""
    num_samples: int = 1
    """How many continuations."""
    attention: Backend | None = None
    """Attention backend by name, such as auto where the model's own cannot run here. None: the model's own."""
    fused: bool = False
    """Decode by fewer and larger kernels, on an NVIDIA GPU. Compiled and tested, they have not run on one yet."""


def main(arguments: list[str]) -> int:
    """Print samples; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt generate", args=arguments)
    if chosen.num_samples < 1:
        raise ValueError(f"--num-samples {chosen.num_samples} asks for nothing; use at least 1")
    from jaxgpt.inference.generate import generate
    from jaxgpt.loading import load_tokenizer, load_with_backend

    tokenizer = load_tokenizer(chosen.source)
    prompt = tokenizer.encode(chosen.prompt).tolist()
    model = load_with_backend(chosen.source, chosen.attention)
    tokens = generate(
        model,
        [prompt] * chosen.num_samples,
        _room(model.config, len(prompt)) if chosen.max_new_tokens is None else chosen.max_new_tokens,
        temperature=chosen.temperature,
        top_k=chosen.top_k,
        top_p=chosen.top_p,
        seed=chosen.seed,
        stop_token=tokenizer.end_of_text,
        fused=chosen.fused,
    )
    for number, row in enumerate(tokens):
        if number:
            Console().rule()
        kept = prompt + [token for token in row[len(prompt) :].tolist() if token != tokenizer.end_of_text]
        sys.stdout.write(tokenizer.decode(kept) + "\n")  # rich would change tabs, control characters and :names:
    return 0


def _room(config: "GPTConfig", length: int) -> int:
    """How many tokens to add to a prompt where the user did not say; at least one, which may then be refused."""
    return USUAL_LENGTH if config.max_length is None else max(1, min(USUAL_LENGTH, config.max_length - length))
