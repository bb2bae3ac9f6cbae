"""How good is a model, beside what OpenAI published of GPT-2, and what does it write?

    python -m experiments.pretrained [--init openai-community/gpt2 --text wikitext103-test.txt]

A checkpoint's loss, perplexity (per token, and per word as OpenAI counts it) and bits per byte on a text, and samples,
beside a model trained here: the CPU size of experiments.variants. Without --init only the latter, on the held-back
tenth of tiny Shakespeare.
What it does not show: OpenAI's numbers measured again unless --init and the same text are given; even then the paper
undoes the text's tokenization first (section 3.1), which this does not. A model of characters and one of byte pairs
can be compared by bits per byte and by no other number here.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import evidence, short_run
from experiments.variants import SIZES
from jaxgpt.data import TokenData, Tokenizer, prepare
from jaxgpt.evaluation.evaluate import evaluate, split_tokens
from jaxgpt.inference.generate import generate
from jaxgpt.loading import load, load_tokenizer
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import num_parameters

PUBLISHED = {
    "117M": (35.13, 45.99, 29.41, 65.85, 1.16, 37.50),
    "345M": (15.60, 55.48, 22.76, 47.33, 1.01, 26.37),
    "762M": (10.87, 60.12, 19.93, 40.31, 0.97, 22.05),
    "1542M": (8.63, 63.24, 18.34, 35.76, 0.93, 17.48),
}
"""Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", table 3; the paper's 117M is 124M."""
COLUMNS = ("LAMBADA ppl", "LAMBADA %", "WikiText-2 ppl", "PTB ppl", "enwik8 bits/byte", "WikiText-103 ppl")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluate and sample."""

    init: str | None = None
    """The checkpoint: a run, an HF folder or hub id. None: only the model trained here."""
    text: str = "shakespeare"
    """What the checkpoint is evaluated on: shakespeare, or the path of a text."""
    prompt: str = "ROMEO:"
    """What the samples begin with."""
    steps: int = 600
    """Updates of the model trained here."""
    windows: int | None = None
    """How many windows are read, spread over the text. None: all of it."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Evaluate what there is, and sample it."""
    short_run.keep_programs()
    source = f" --init {arguments.init} --text {Path(arguments.text).name}" if arguments.init else ""
    environment = evidence.environment(f"python -m experiments.pretrained{source}")
    models = {"trained here": judged(*trained_here(arguments.steps), "validation", arguments)}
    if arguments.init is not None:
        tokenizer = load_tokenizer(arguments.init)
        data = prepare(arguments.text, tokenizer)
        models[arguments.init] = judged(load(arguments.init), data, tokenizer, "all", arguments)
    result = {"environment": environment, "models": models, "published": PUBLISHED}
    evidence.write("pretrained", result | {"tables": tables(models)}, arguments.results)
    return result


def trained_here(steps: int) -> tuple[GPT, TokenData, Tokenizer]:
    """The CPU size of experiments.variants, its text and its characters."""
    size = SIZES["cpu"].config
    data = prepare(size.data.source, size.data.tokenizer)
    model, _ = short_run.train(dataclasses.replace(size, steps=steps, eval_every=10_000), data)
    return model, data, data.tokenizer


def judged(model: GPT, data: TokenData, tokenizer: Tokenizer, split: str, arguments: Arguments) -> dict[str, Any]:
    """The measures of a model on a part of a text, and a sample."""
    tokens, bytes_per_token = split_tokens(data, split)
    found = evaluate(model, tokens, bytes_per_token, max_windows=arguments.windows)
    words = len(tokenizer.decode(tokens.tolist()).split())
    start = tokenizer.encode(arguments.prompt).tolist()
    new = min(200, (model.config.max_length or 10_000) - len(start))
    text = generate(model, np.array([start], np.int32), new, temperature=0.8, top_p=0.95)[0]
    return {
        "parameters": num_parameters(model),
        "text": f"{Path(arguments.text).name}, {split}",
        "tokens": found.tokens,
        "loss": found.loss,
        "perplexity": found.perplexity,
        "perplexity_per_word": math.exp(min(found.loss * len(tokens) / words, 700.0)),
        "bits_per_byte": found.bits_per_byte,
        "sample": tokenizer.decode(text.tolist()),
    }


def tables(models: dict[str, Any]) -> list[dict[str, Any]]:
    """The result for people."""
    measures = ("parameters", "text", "tokens", "loss", "perplexity", "perplexity_per_word", "bits_per_byte")
    rows = [[name, *(cell(row[key]) for key in measures)] for name, row in models.items()]
    published = [[name, *(f"{value:.2f}" for value in row)] for name, row in PUBLISHED.items()]
    title = "GPT-2 without training on the task, as published (Radford et al. 2019, table 3)"
    return [
        {"title": "Measured", "head": ["model", *(key.replace("_", " ") for key in measures)], "rows": rows},
        {"title": title, "head": ["model", *COLUMNS], "rows": published},
        {
            "title": "Samples, temperature 0.8, top-p 0.95",
            "head": ["model", "text"],
            "rows": [[name, row["sample"]] for name, row in models.items()],
            "kind": "wide",
        },
    ]


def cell(value: float | str) -> str:
    """Whole numbers whole, others with four digits behind the point, and none where they are large."""
    if isinstance(value, str):
        return value
    return f"{value:,.4f}" if isinstance(value, float) and value < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
