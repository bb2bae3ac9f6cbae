"""What does a long context cost in time and memory, with full attention and with a window?

    python -m experiments.window [--longest 65536] [--most-gigabytes 5]

A small model with rotary positions, one text: a training step and a decoded token at context lengths from 1024 on, for
each attention backend that this machine has. Memory is read from the compiled program; a step that would take more
than --most-gigabytes is compiled and not run. To the banded window's cost a straight line in the length is fitted, to
full attention's a power.
What it does not show: quality (nothing is trained), a model of a useful size (where the products with weights, linear
in the length, weigh more), GPUs' fused kernels unless there is a GPU. Times are medians of a few steps.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from converters.comparison import cache_bytes
from experiments import evidence, short_run
from experiments.interleaved import seconds
from jaxgpt.config import Backend, GPTConfig
from jaxgpt.model.cache import Cache, LayerCache, cache_lengths
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.platform import on_gpu
from jaxgpt.parallel.mesh import one_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import abstract_batch, abstract_state, initial_state, make_step

WINDOW = 256
TOKENS = 16
"""Decoded in one timing."""
MODEL = GPTConfig(vocab_size=128, num_layers=1, num_heads=4, d_model=64, position="rotary")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compile and time steps at growing lengths."""

    longest: int = 65536
    """Up to which context length memory is read, doubling from 1024."""
    longest_run: int = 65536
    """Up to which programs are run."""
    most_gigabytes: float = 5.0
    """Steps that need more are not run."""
    repeats: int = 2
    """Timings of each, after a warm-up."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Every backend at every length, and the fits."""
    short_run.keep_programs()
    environment = evidence.environment("python -m experiments.window")
    lengths = [1024 << i for i in range(20) if 1024 << i <= arguments.longest]
    result: dict[str, Any] = {"environment": environment, "window": WINDOW, "model": MODEL.to_dict(), "rows": {}}
    for name, changes in backends().items():
        rows = result["rows"].setdefault(name, [])
        for length in lengths:
            rows.append(measured(dataclasses.replace(MODEL, context_length=length, **changes), arguments))
            print(name, rows[-1], flush=True)
        result["fits"] = {name: fits(found) for name, found in result["rows"].items()}
        evidence.write("window", result | {"tables": tables(result)}, arguments.results)  # what there is so far
    return result


def backends() -> dict[str, dict[str, Any]]:
    """What this machine can run, with and without a window."""
    names: list[Backend] = ["xla", "cudnn"] if on_gpu() else ["xla"]
    dtype = {"dtype": "bfloat16"} if on_gpu() else {}
    full = {f"full, {name}": {"attention": name, **dtype} for name in names}
    window = {f"window {WINDOW}, {name}": {"attention": name, "window": WINDOW, **dtype} for name in ["banded", *names]}
    return full | window


def measured(config: GPTConfig, arguments: Arguments) -> dict[str, Any]:
    """Memory of a training step, a decoded token's time and cache, and the step's time where it may run."""
    train = TrainConfig(model=config, batch_size=1)
    batch = abstract_batch(train, one_device())
    compiled = make_step(train, one_device()).lower(abstract_state(train, one_device()), batch, None).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    row = {
        "length": config.context_length,
        "step_temporary_megabytes": temporary / 1e6,
        "cache_megabytes": cache_bytes(config) / 1e6,
    }
    if config.context_length > arguments.longest_run:
        return row
    state = initial_state(train, one_device())
    row |= decoded(state.model, 10 * arguments.repeats)  # a timing takes milliseconds
    if temporary > arguments.most_gigabytes * 1e9:
        return row
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, batch.shape, dtype=np.int32)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, tokens, None)
        jax.block_until_ready(metrics)

    return row | timed(step, arguments.repeats, "step", "seconds", 1)


def decoded(model: GPT, repeats: int) -> dict[str, Any]:
    """The time of a token where the cache is full."""

    @jax.jit
    def run(model: GPT, cache: Cache) -> Any:
        def one(cache: Cache, _: None) -> tuple[Cache, Any]:
            logits, cache = model.decode_step(jnp.zeros(1, jnp.int32), cache)
            return cache, logits[0, 0]

        return jax.lax.scan(one, cache, length=TOKENS)[1]

    cache = full_cache(model.config)
    return timed(lambda: jax.block_until_ready(run(model, cache)), repeats, "token", "milliseconds", 1000 / TOKENS)


def full_cache(config: GPTConfig) -> Cache:
    """A cache as a text of context_length - TOKENS tokens leaves it, with random keys and values."""
    read = config.context_length - TOKENS

    def layer(kept: int) -> LayerCache:
        shape = (2, 1, kept, config.kv_heads, config.head_dim)
        return LayerCache(*jax.random.normal(jax.random.key(0), shape, config.dtype))

    return Cache(tuple(map(layer, cache_lengths(config, config.context_length))), jnp.array([read]))


def timed(program: Any, repeats: int, what: str, unit: str, scale: float) -> dict[str, float]:
    """Medians by the clock and by processor time."""
    program()
    wall, processor = zip(*(seconds(program) for _ in range(repeats)), strict=True)
    found = {f"{what}_{unit}": wall, f"{what}_processor_{unit}": processor}
    return {name: scale * statistics.median(values) for name, values in found.items()}


def fits(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """How cost grows with length: a straight line with its R², and the exponent over the longer half."""
    found = {}
    for key in ("step_processor_seconds", "step_temporary_megabytes", "token_processor_milliseconds"):
        points = np.array([[row["length"], row[key]] for row in rows if key in row]).T
        if points.size < 6:
            continue
        slope, intercept = np.polyfit(*points, 1)
        rest = points[1] - slope * points[0] - intercept
        half = np.log(points[:, points.shape[1] // 2 :])
        exponent = np.polyfit(*half, 1)[0] if half.shape[1] > 1 else float("nan")
        r2 = 1 - (rest**2).sum() / ((points[1] - points[1].mean()) ** 2).sum()
        found[key] = {"per_1024_tokens": 1024 * slope, "intercept": intercept, "r2": r2, "exponent": exponent}
    return {key: {name: float(value) for name, value in fit.items()} for key, fit in found.items()}


def tables(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The result for people."""
    keys = ("step_processor_seconds", "step_temporary_megabytes", "token_processor_milliseconds", "cache_megabytes")
    cells = [
        [name, f"{row['length']:,}", *(cell(row.get(key)) for key in keys)]
        for name, rows in result["rows"].items()
        for row in rows
    ]
    grows = [
        [name, key.replace("_", " "), f"{fit['exponent']:.2f}", f"{fit['r2']:.5f}"]
        for name, found in result["fits"].items()
        for key, fit in found.items()
    ]
    head = ["attention", "length", "step, s", "step, MB", "token, ms", "cache, MB"]
    title = "What was measured: processor time, temporary memory"
    return [
        {"title": "How the cost grows", "head": ["attention", "of", "exponent", "R² of a line"], "rows": grows},
        {"title": title, "head": head, "rows": cells},
    ]


def cell(value: float | None) -> str:
    """Four digits."""
    if value is None:
        return "not run"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


if __name__ == "__main__":
    main(tyro.cli(Arguments))
