"""GPT-2 124M on a CPU beside what people would pick instead: PyTorch, transformers and llama.cpp (package xllamacpp).

    python -m experiments.speed --preset gpt2 [--rows train-float32-4x256 decode-float32 ...]

All sides have the same random weights and take turns in one process, as many threads as there are cores, and keep freed
memory; what counts is the median. A decoded token's time is the difference between a long and a short continuation, so
that prompts and casts do not count. The results of single rows are kept, so that the table can be made in pieces.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import evidence
from experiments.interleaved import REST, seconds
from jaxgpt.config import Weights

NAME = "speed-gpt2-cpu"
SHORT, LONG = 9, 49
"""New tokens of the two continuations."""
PRODUCTS = 400
"""How many products take about as long as a step: clocks fall while AVX-512 works."""

Timed = Callable[[], float]
"""A program that returns its tokens per second."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table. `goals`: how many times each rival's speed is asked for."""

    goals: dict[str, float]
    batch: int
    length: int = 0
    """Tokens of a text in training; 0: decoding."""
    dtype: str = "float32"
    weights: Weights | None = None
    stored: str = "float32"
    """What llama.cpp's file holds."""


ROWS = {
    "train-float32-4x256": Row({"torch eager": 1.0, "torch compiled": 1.0}, 4, 256),
    "train-float32-2x1024": Row({"torch eager": 1.2}, 2, 1024),
    "train-bfloat16-4x256": Row({"torch eager": 1.1}, 4, 256, dtype="bfloat16"),
    "decode-float32": Row({"llama.cpp": 1.0, "transformers": 1.0}, 1),
    "decode-16-bits": Row({"llama.cpp": 0.8}, 1, weights="bf16", stored="float16"),
    "decode-8-bits": Row({"llama.cpp": 0.75}, 1, weights="int8", stored="q8_0"),
    "decode-batch-8-float32": Row({"transformers": 1.2}, 8),
    "decode-batch-8-bfloat16": Row({"transformers": 1.2}, 8, weights="bf16"),
}
"""torch is SDPA; where the row is in bfloat16, under autocast, and transformers' weights are in bfloat16."""


def rows(names: tuple[str, ...], rounds: int, command: str, folder: Path) -> dict[str, Any]:
    """Measure the named rows; the others stay as they were measured before."""
    before = evidence.read(NAME, folder)["rows"] if (folder / f"{NAME}.json").exists() else {}
    result: dict[str, Any] = {
        "environment": evidence.environment(command, "torch", "transformers", "xllamacpp"),
        "rows": before,
    }
    for name in names:
        row, load = ROWS[name], os.getloadavg()[0]
        measured = {"load_at_start": load, **(train if row.length else decode)(row, rounds)}
        result["rows"] = {
            key: measured if key == name else before.get(key) for key in ROWS if key == name or key in before
        }
        before = result["rows"]
        print(f"{name}: {evidence.rounded(measured, 3)}", flush=True)
        evidence.write(NAME, result, folder)
    return result


def train(row: Row, rounds: int) -> dict[str, Any]:
    """Tokens per second of a whole update, beside PyTorch's."""
    from experiments import peers
    from experiments.speed import matmul_ceiling, our_step, timed_config
    from jaxgpt.inspect.flops import flops_per_token
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    config = timed_config("gpt2")
    model = dataclasses.replace(config.model, dtype=row.dtype)
    config = dataclasses.replace(config, model=model, batch_size=row.batch)
    batch = np.random.default_rng(0).integers(0, model.vocab_size, (row.batch, row.length + 1))
    ours, _ = our_step(dataclasses.replace(config, model=dataclasses.replace(model, context_length=row.length)))
    loss = peers.transformers_loss(initial_state(config, one_device()).model)
    steps = {
        "jaxgpt": ours,
        **{rival: peers.train_step(config, *loss, compiled="compiled" in rival) for rival in row.goals},
    }

    def timed(step: Callable[[np.ndarray], float]) -> float:
        return row.batch * row.length / seconds(lambda: step(batch))[0]

    programs: dict[str, Timed] = {name: lambda step=step: timed(step) for name, step in steps.items()}
    found = in_turns({**programs, "products": lambda: matmul_ceiling(row.dtype, PRODUCTS)}, rounds)
    products = found.pop("products")
    flops = flops_per_token(dataclasses.replace(model, context_length=row.length), causal=True)
    done = [flops * tokens for tokens in found["jaxgpt"]]
    return {
        **compared(found, row.goals),
        "flops_per_second": statistics.median(done),
        "matmul_ceiling": statistics.median(products),
        "of_ceiling": statistics.median(a / b for a, b in zip(done, products, strict=True)),
    }


def decode(row: Row, rounds: int) -> dict[str, Any]:
    """Greedy tokens per second, beside llama.cpp's or transformers'."""
    from experiments import peers
    from experiments.speed import timed_config
    from jaxgpt.inference.generate import generate
    from jaxgpt.inference.weights import cast_once
    from jaxgpt.model.parameters import num_parameters
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    config = timed_config("gpt2")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=row.dtype))
    model = initial_state(config, one_device()).model
    prompt = np.random.default_rng(0).integers(0, model.config.vocab_size, (row.batch, 8), dtype=np.int32)
    narrow = cast_once(model, row.weights)
    programs: dict[str, Callable[[int], object]] = {
        "jaxgpt": lambda count: generate(narrow, prompt, count, temperature=0)
    }
    if "llama.cpp" in row.goals:
        programs["llama.cpp"] = peers.llamacpp_greedy(model, prompt[0], row.stored)
    if "transformers" in row.goals:
        programs["transformers"] = peers.greedy(model, prompt, "bfloat16" if row.weights else "float32")

    def timed(program: Callable[[int], object]) -> float:
        took = [seconds(lambda n=n: program(n))[0] for n in (LONG, SHORT)]
        return row.batch * (LONG - SHORT) / (took[0] - took[1])

    found = in_turns({name: lambda program=program: timed(program) for name, program in programs.items()}, rounds)
    speed = statistics.median(found["jaxgpt"])
    weights = num_parameters(model) - model.position.size
    return {**compared(found, row.goals), "weights_per_second": weights * speed / row.batch}


def in_turns(programs: dict[str, Timed], rounds: int) -> dict[str, list[float]]:
    """What each program says of itself, round by round, after a warm-up; every second round in reverse order."""
    for program in programs.values():
        program()
    found: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds):
        for name in list(programs)[:: 1 if turn % 2 == 0 else -1]:
            time.sleep(REST)
            found[name].append(programs[name]())
    return found


def compared(found: dict[str, list[float]], goals: dict[str, float]) -> dict[str, Any]:
    """Medians of tokens per second, and of the ratios round by round beside their goals."""
    ratios = {rival: [a / b for a, b in zip(found["jaxgpt"], found[rival], strict=True)] for rival in goals}
    return {
        "tokens_per_second": {name: statistics.median(speeds) for name, speeds in found.items()},
        "times_as_fast": {rival: statistics.median(each) for rival, each in ratios.items()},
        "spread": {rival: [min(each), max(each)] for rival, each in ratios.items()},
        "goals": goals,
        "reached": {rival: statistics.median(each) >= goals[rival] for rival, each in ratios.items()},
        "rounds": len(found["jaxgpt"]),
    }
