"""How good is a model, beside others and what OpenAI published of GPT-2, and what does it write?

    python -m experiments.pretrained [SOURCE...] [--text wikitext103-test.txt] [--tasks hellaswag,lambada]

Several models side by side on the same documents: loss per token of their own tokenizer, bits per byte with the paired
difference from the first, the standard evaluations where --tasks names some, parameters, bytes of key-value cache,
decoding speed, and what each writes after the same prompts. SOURCE is a run, a Hugging Face folder or hub id, or a
weights file; `openai-community/gpt2 openai-community/gpt2-medium` shows OpenAI's sizes. Without a source: a model
trained here (the CPU size of experiments.variants) and its conversions, each trained on for a while.
What it does not show: OpenAI's numbers measured again, unless their weights and the tasks' files are given. Documents
are pieces of 2,000 characters, each scored by itself, so losses are above those of longer contexts. Models of other
tokenizers can be compared by bits per byte, and by no loss per token. Speeds are single timings, by processor time.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro

from converters.adapt import adapt_weights
from converters.comparison import cache_bytes_per_token
from experiments import evidence, short_run
from experiments.scored import task_scores
from experiments.uptrain import conversions_of
from experiments.variants import SIZES
from jaxgpt.data import TokenData, Tokenizer, prepare
from jaxgpt.evaluation.compare import DocumentScores, difference, documents_of, score_documents
from jaxgpt.evaluation.evaluate import split_tokens
from jaxgpt.evaluation.tasks.run import TASKS
from jaxgpt.evaluation.tasks.task import SIZES as GPT2_SIZES
from jaxgpt.inference.generate import generate
from jaxgpt.loading import load, load_tokenizer
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import num_parameters
from jaxgpt.training.config import OptimizerConfig

CONVERSIONS = ("rotary", "grouped", "windowed", "all")
DECODED = 64
"""Tokens that a speed is measured on."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Evaluate and sample."""

    sources: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs, HF folders or hub ids, weights files. None: a model trained here, and its conversions."""
    text: str = "shakespeare"
    """What is predicted: shakespeare, or the path of a text; of the former, and of what is trained on, a tenth."""
    documents: int | None = 100
    """How many documents are scored, spread over the text. None: all."""
    tasks: str | None = None
    """Standard evaluations, with commas between."""
    task_data: Path | None = None
    """A folder with their files. None: downloaded."""
    limit: int | None = None
    """Questions of each task. None: all."""
    prompts: tuple[str, ...] = ("ROMEO:", "The king")
    """What the samples begin with."""
    new_tokens: int = 120
    """Length of a sample."""
    steps: int = 600
    """Updates of the model trained here."""
    uptraining_steps: int = 50
    """Updates of each of its conversions."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


class Contender(NamedTuple):
    """A model that is compared."""

    name: str
    model: GPT
    tokenizer: Tokenizer


def main(arguments: Arguments) -> dict[str, Any]:
    """Evaluate what there is, and sample it."""
    short_run.keep_programs()
    command = " ".join(["python -m experiments.pretrained", *arguments.sources])
    environment = evidence.environment(command)
    if arguments.sources:
        contenders = loaded(arguments.sources)
        data = prepare(arguments.text, load_tokenizer(arguments.sources[0]))
    else:
        data = prepare(SIZES["cpu"].config.data.source, SIZES["cpu"].config.data.tokenizer)
        contenders = trained_here(arguments, data)
    documents = documents_of(split_tokens(data, "validation")[0], data.tokenizer, arguments.documents)
    models: dict[str, Any] = {}
    first: DocumentScores | None = None
    for one in contenders:
        scores = score_documents(one.model, one.tokenizer, documents)
        models[one.name] = judged(one, scores, first or scores, arguments)
        print(f"{one.name}: {scores.bits_per_byte.value:.4f} bits per byte", flush=True)
        first = first or scores
    result = {"environment": environment, "documents": len(documents), "models": models}
    evidence.write("pretrained", result | {"tables": tables(models)}, arguments.results)
    return result


def loaded(sources: tuple[str, ...]) -> Iterator[Contender]:
    """The models at sources, one after another."""
    for source in sources:
        yield Contender(source, load(source), load_tokenizer(source))


def trained_here(arguments: Arguments, data: TokenData) -> Iterator[Contender]:
    """The CPU size of experiments.variants, and each conversion of it, trained on."""
    config = dataclasses.replace(SIZES["cpu"].config, steps=arguments.steps, eval_every=10_000)
    baseline, _ = short_run.train(config, data)
    yield Contender("trained here", baseline, data.tokenizer)
    gentle = OptimizerConfig(1e-3, 1e-4, warmup_steps=10, beta2=0.99)
    for name in CONVERSIONS:
        start = adapt_weights(baseline, **conversions_of(baseline)[name])
        this = dataclasses.replace(config, model=start.config, optimizer=gentle, steps=arguments.uptraining_steps)
        model, _ = short_run.train(dataclasses.replace(this, seed=1000), data, start=start)
        yield Contender(f"{name}, trained on", model, data.tokenizer)


def judged(one: Contender, scores: DocumentScores, first: DocumentScores, arguments: Arguments) -> dict[str, Any]:
    """The measures of a model, and its samples."""
    bits, more = scores.bits_per_byte, difference(first, scores)
    return {
        "parameters": num_parameters(one.model),
        "cache_bytes_per_token": cache_bytes_per_token(one.model.config),
        "tokens_per_processor_second": decoding_speed(one.model),
        "loss": scores.loss,
        "bits_per_byte": bits.value,
        "bits_per_byte_se": bits.standard_error,
        "difference": more.value,
        "difference_se": more.standard_error,
        "tasks": task_scores(one.model, one.tokenizer, arguments.tasks, arguments.task_data, arguments.limit),
        "samples": {prompt: sample(one, prompt, arguments.new_tokens) for prompt in arguments.prompts},
    }


def sample(one: Contender, prompt: str, new_tokens: int) -> str:
    """A prompt and what the model writes after it."""
    start = one.tokenizer.encode(prompt).tolist()
    new = min(new_tokens, (one.model.config.max_length or 10_000) - len(start))
    text = generate(one.model, np.array([start], np.int32), new, temperature=0.8, top_p=0.95)[0]
    return one.tokenizer.decode(text.tolist())


def decoding_speed(model: GPT) -> float:
    """Tokens a second of processor time, of one text."""
    new = min(DECODED, (model.config.max_length or DECODED + 1) - 1)
    prompt = np.zeros((1, 1), np.int32)
    generate(model, prompt, new, temperature=0.0)  # compiles
    began = time.process_time()
    generate(model, prompt, new, temperature=0.0)
    return new / (time.process_time() - began)


def tables(models: dict[str, Any]) -> list[dict[str, Any]]:
    """The result for people."""
    head = [
        "model",
        "parameters",
        "nats per token",
        "bits per byte",
        "beside the first",
        "cache, bytes a token",
        "speed",
    ]
    rows = [
        [
            name,
            f"{row['parameters']:,}",
            f"{row['loss']:.4f}",
            f"{row['bits_per_byte']:.4f} ± {row['bits_per_byte_se']:.4f}",
            f"{row['difference']:+.4f} ± {row['difference_se']:.4f}",
            f"{row['cache_bytes_per_token']:,}",
            f"{row['tokens_per_processor_second']:,.0f}",
        ]
        for name, row in models.items()
    ]
    found = [{"title": "Measured on the same documents", "head": [*head, "tokens a second"], "rows": rows}]
    if any(row["tasks"] for row in models.values()):
        found.append(task_table(models))
    prompts = list(next(iter(models.values()))["samples"])
    samples = [[name, *(row["samples"][prompt] for prompt in prompts)] for name, row in models.items()]
    return [
        *found,
        {
            "title": "Samples, temperature 0.8, top-p 0.95",
            "head": ["model", *prompts],
            "rows": samples,
            "kind": "wide",
        },
        published_table(),
    ]


def task_table(models: dict[str, Any]) -> dict[str, Any]:
    """Ours, with the published number of the model's size in brackets."""
    head = [f"{row['task']} {row['metric']}" for row in next(iter(models.values()))["tasks"]]
    rows = [[name, *(cell(row) for row in one["tasks"])] for name, one in models.items()]
    return {"title": "Standard evaluations (in brackets: published)", "head": ["model", *head], "rows": rows}


def cell(row: dict[str, Any]) -> str:
    error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.4f}"
    return f"{row['ours']:.4f}{error}" + ("" if row["published"] is None else f" ({row['published']:.4f})")


def published_table() -> dict[str, Any]:
    """What others measured of OpenAI's weights, by the same protocols."""
    rows = [
        [task.name, row.metric, *("" if value is None else f"{value:g}" for value in row.values), row.by]
        for task in TASKS.values()
        for row in task.published
    ]
    return {"title": "GPT-2 as published", "head": ["task", "metric", *GPT2_SIZES, "by"], "rows": rows}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
