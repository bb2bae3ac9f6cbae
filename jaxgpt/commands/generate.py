"""`jaxgpt generate`."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Continue a text."""

    source: tyro.conf.Positional[Path]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    prompt: str = "\n"
    """The text to continue."""
    max_new_tokens: int = 128
    """How many tokens to add at most; <|endoftext|> ends a sample."""
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


def main(arguments: list[str]) -> int:
    """Print samples; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt generate", args=arguments)
    if chosen.num_samples < 1:
        raise ValueError(f"--num-samples {chosen.num_samples} asks for nothing; use at least 1")
    from jaxgpt.inference.generate import generate
    from jaxgpt.loading import load, load_tokenizer

    tokenizer = load_tokenizer(chosen.source)
    prompt = tokenizer.encode(chosen.prompt).tolist()
    tokens = generate(
        load(chosen.source),
        [prompt] * chosen.num_samples,
        chosen.max_new_tokens,
        temperature=chosen.temperature,
        top_k=chosen.top_k,
        top_p=chosen.top_p,
        seed=chosen.seed,
        stop_token=tokenizer.end_of_text,
    )
    console = Console(highlight=False)
    for number, row in enumerate(tokens):
        if number:
            console.rule()
        kept = prompt + [token for token in row[len(prompt) :].tolist() if token != tokenizer.end_of_text]
        console.print(tokenizer.decode(kept), markup=False, soft_wrap=True)
    return 0
