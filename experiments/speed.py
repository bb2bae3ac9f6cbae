"""How fast are a training step and decoding beside the same model in PyTorch, on the same machine, in the same minutes?

    python -m experiments.speed [--preset quickstart] [--compile] [--nanogpt FOLDER] [--rows train products decode]
        [--fused]
    python -m experiments.speed --preset gpt2        on a CPU, beside llama.cpp too: experiments/speed_gpt2.py

Both sides start from the same weights and read the same batches; a ratio whose losses (or greedy tokens) disagree is
void. Rounds alternate (ABBA), so that a machine whose speed drifts cannot favour one side; what counts is the median of
the ratios, round by round. Freed memory is kept, for both sides, as `jaxgpt train` keeps it. Each row is printed when
it is known, and the result saved after it. On a GPU the preset is gpt2, in bfloat16.
Needs the test extra (torch, transformers). What it does not show: other sizes, other machines.
"""

import dataclasses
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import evidence, speed_gpt2
from experiments.interleaved import seconds, times_as_fast
from jaxgpt.runtime.host_memory import keep_freed_memory

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch computes on the same GPU

LOSS_TOLERANCE = {"float32": 2e-4, "bfloat16": 2e-2}
"""Relative difference of the losses above which a ratio is void."""
TOKENS_ALIKE = {"float32": 0.99, "bfloat16": 0.5}
"""Part of the greedy tokens below which a ratio is void: after a first near-tie, texts go apart."""


KINDS = ("train", "products", "variants", "decode")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Time training and decoding against PyTorch."""

    preset: str | None = None
    """quickstart or shakespeare-char-cpu; where not given, quickstart on a CPU and gpt2 on a GPU."""
    rows: tuple[str, ...] = ()
    """train, products and decode: beside PyTorch. variants: beside our own baseline. Of gpt2 on a CPU: the lines of its
    table (experiments/speed_gpt2.py). None: all."""
    rounds: int | None = None
    """Pairs of timings. None: 10, and 3 of gpt2 on a CPU."""
    steps: int = 5
    """Steps in a timing."""
    decode_rows: tuple[int, ...] = (1, 8, 64)
    """Texts that are continued at once."""
    new_tokens: int = 64
    """Tokens written to each."""
    fused: bool = False
    """Decode by our own kernels too, on a GPU."""
    compile: bool = False
    """Compare with torch.compile too."""
    nanogpt: Path | None = None
    """The folder of a nanoGPT checkout, whose model.py is a rival too."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Print and save the rows as they are known."""
    keep_freed_memory()
    import jax

    on_gpu = jax.default_backend() == "gpu"
    preset = arguments.preset or ("gpt2" if on_gpu else "quickstart")
    on_cpu_gpt2 = preset == "gpt2" and not on_gpu
    known = tuple(speed_gpt2.ROWS) if on_cpu_gpt2 else KINDS
    arguments = dataclasses.replace(
        arguments, rows=arguments.rows or known, rounds=arguments.rounds or (3 if on_cpu_gpt2 else 10)
    )
    if wrong := set(arguments.rows) - set(known):
        raise ValueError(f"--rows {' '.join(sorted(wrong))} is not known; there are {', '.join(known)}")
    if on_cpu_gpt2:
        return speed_gpt2.rows(arguments.rows, arguments.rounds, _command(arguments, preset, known), arguments.results)
    config = timed_config(preset)
    result: dict[str, Any] = {
        "preset": preset,
        "environment": evidence.environment(_command(arguments, preset, known), "torch", "transformers"),
        "batch": [config.batch_size, config.model.context_length],
        "matmul_flops_per_second": matmul_ceiling(config.model.dtype),
        "rivals": {},
        "products": {},
        "variants": {},
        "decode": {},
    }
    made = {"train": train_rows, "products": product_rows, "variants": variant_rows, "decode": decode_rows}
    for kind in arguments.rows:
        for name, row in made[kind](config, arguments):
            result["rivals" if kind == "train" else kind][name] = row
            print(f"{preset}, {kind}, {name}: {evidence.rounded(row, 4)}", flush=True)
            evidence.write(f"speed-{preset}-{'gpu' if on_gpu else 'cpu'}", result, arguments.results)
    return result


def timed_config(preset: str) -> Any:
    """The preset as one step of it is timed: a batch that a GPU holds at once, nothing dropped, and the rivals' AdamW
    and learned positions.
    """
    from jaxgpt.training.config import TrainConfig

    config = TrainConfig.preset(preset)
    model = dataclasses.replace(config.model, dropout=0.0, position="learned")
    batch = 32 if config.microbatches > 1 else config.batch_size
    rule: dict[str, Any] = {"batch_size": batch, "microbatches": 1, "remat": "none"}
    return dataclasses.replace(
        config, model=model, optimizer=dataclasses.replace(config.optimizer, name="adamw"), **rule
    )


def train_rows(config: Any, arguments: Arguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """A training step beside each rival's."""
    from experiments import peers

    for compiled in (False, True) if arguments.compile else (False,):
        how = "compiled" if compiled else "eager"
        yield f"torch {how}", train_row(config, peers.transformers_loss, arguments, compiled=compiled)
        if arguments.nanogpt:
            same = dataclasses.replace(config, model=dataclasses.replace(config.model, activation="gelu"))
            make = partial(peers.nanogpt_loss, checkout=arguments.nanogpt)
            yield f"nanoGPT {how}", train_row(same, make, arguments, compiled=compiled)


def train_row(config: Any, make: Callable[..., Any], arguments: Arguments, *, compiled: bool) -> dict[str, Any]:
    """Both steps from the same weights on the same batches."""
    from experiments import peers
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    shape = (arguments.steps, config.batch_size, config.model.context_length + 1)
    batches = np.random.default_rng(0).integers(0, config.model.vocab_size, shape)
    ours, facts = our_step(config)
    theirs = peers.train_step(config, *make(initial_state(config, one_device()).model), compiled=compiled)
    losses = [[step(batch) for batch in batches] for step in (theirs, ours)]
    barrier_copies = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    timed = times_as_fast(lambda: [ours(b) for b in batches], lambda: [theirs(b) for b in batches], arguments.rounds)
    each = timed["seconds"] / arguments.steps
    return {
        **ratio(timed, void=barrier_copies > LOSS_TOLERANCE[config.model.dtype]),
        **per_step(timed, 1 / arguments.steps),
        "losses_apart": barrier_copies,
        "tokens_per_second": config.batch_size * config.model.context_length / each,
        **facts,
        "peak_gigabytes_theirs": peers.peak_gigabytes(lambda: theirs(batches[0])),
        **utilisation(config, each),
    }


def ratio(timed: dict[str, float], *, void: bool = False) -> dict[str, Any]:
    """How many times as fast ours is by the clock, and the range over the rounds."""
    return {"times_as_fast": None if void else timed["wall"], "spread": [timed["wall_low"], timed["wall_high"]]}


def per_step(timed: dict[str, float], times: float) -> dict[str, float]:
    """Seconds of a step, by the clock and of all threads, where `times` of what was timed make one."""
    return {
        f"{ours}_per_step{side}": times * timed[f"{ours}{whose}"]
        for side, whose in (("", ""), ("_theirs", "_of_baseline"))
        for ours in ("seconds", "processor_seconds")
    }


def product_rows(config: Any, arguments: Arguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """The matrix products of a step and nothing else, by shape and in all: what no program can do without."""
    import jax
    import jax.numpy as jnp

    from experiments import peers

    product, repeats = jax.jit(jnp.matmul), 20
    spent: dict[str, float] = {}
    for (a, b), count in products(config).items():
        x, y = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in (a, b))
        theirs = peers.product(x, y, config.model.dtype)
        x, y = (jnp.asarray(matrix, config.model.dtype) for matrix in (x, y))
        timed = times_as_fast(
            lambda: [product(x, y).block_until_ready() for _ in range(repeats)],  # noqa: B023
            lambda: [theirs() for _ in range(repeats)],  # noqa: B023
            arguments.rounds,
        )
        flops = 2 * math.prod(a) * b[-1] * repeats
        row = per_step(timed, count / repeats)
        spent = {key: spent.get(key, 0.0) + value for key, value in row.items()}
        speeds = {
            "flops_per_second": flops / timed["seconds"],
            "flops_per_second_theirs": flops / timed["seconds_of_baseline"],
        }
        shapes = " by ".join("x".join(map(str, shape)) for shape in (a, b))
        yield shapes, {"times_a_step": count, **ratio(timed), **speeds, **row}
    yield "of a step", spent


def products(config: Any) -> dict[tuple[tuple[int, ...], tuple[int, ...]], int]:
    """The shapes of what is multiplied in a step where nothing is recomputed, and how often."""
    model = config.model
    tokens, width, heads = config.batch_size * model.context_length, model.d_model, model.num_heads
    kv_width, layers = model.kv_heads * model.head_dim, model.num_layers
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}

    def add(rows: int, inner: int, columns: int, count: int, batch: tuple[int, ...] = ()) -> None:
        for a, b, c in ((rows, inner, columns), (rows, columns, inner), (inner, rows, columns)):
            shapes = (*batch, a, b), (*batch, b, c)
            found[shapes] = found.get(shapes, 0) + count

    for columns, count in ((width, 2), (kv_width, 2), (model.mlp_width, 2)):  # the way back down has the same shapes
        add(tokens, width, columns, count * layers)
    add(tokens, width, model.padded_vocab_size, 1)
    texts = (config.batch_size, heads)
    add(model.context_length, model.head_dim, model.context_length, 2 * layers, texts)
    return found


def variant_rows(config: Any, arguments: Arguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """Our own variants beside our own baseline."""
    from experiments.costs import variants
    from experiments.variants import Size, programs, speeds

    model = config.model
    heads = tuple(n for n in (4, 2, 1) if model.num_heads % n == 0 and n < model.num_heads)[:2]
    size = Size(config, heads, model.context_length // 4, arguments.decode_rows[0])
    baseline = programs(size, config, model)
    for name, variant in variants(model, heads, size.window).items():
        if name != "baseline":
            yield name, speeds(programs(size, config, variant), baseline, arguments.rounds)


def decode_rows(config: Any, arguments: Arguments) -> Iterator[tuple[str, dict[str, Any]]]:
    """Greedy continuation of a short prompt, beside transformers' with a static cache."""
    from experiments import peers
    from jaxgpt.inference.generate import generate
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    model = initial_state(config, one_device()).model
    ways = {"": False, ", fused": True} if arguments.fused else {"": False}
    count = min(arguments.new_tokens, config.model.context_length - 8)
    for (name, fused), rows in itertools.product(ways.items(), arguments.decode_rows):
        prompt = np.random.default_rng(0).integers(0, config.model.vocab_size, (rows, 8), dtype=np.int32)
        theirs = partial(peers.greedy(model, prompt, config.model.dtype), count)

        def ours() -> np.ndarray:
            return generate(model, prompt, count, temperature=0, fused=fused)  # noqa: B023

        alike = float((ours()[:, 8:] == theirs()[:, 8:]).mean())
        timed = times_as_fast(ours, theirs, arguments.rounds)
        yield (
            f"batch {rows}{name}",
            {
                **ratio(timed, void=alike < TOKENS_ALIKE[config.model.dtype]),
                "tokens_per_second": rows * count / timed["seconds"],
                "tokens_per_second_theirs": rows * count / timed["seconds_of_baseline"],
                "tokens_alike": alike,
            },
        )


def our_step(config: Any) -> tuple[Callable[[np.ndarray], float], dict[str, Any]]:
    """One update by jaxgpt, which returns the loss; and what its program took to compile and needs."""
    import jax

    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import abstract_batch, abstract_state, compile_step, initial_state, memory_needed

    mesh = one_device()
    began = time.perf_counter()
    step, _ = compile_step(config, mesh, abstract_state(config, mesh), abstract_batch(config, mesh))
    facts = {"compile_seconds": time.perf_counter() - began, "peak_gigabytes": memory_needed(step) / 1e9}
    state = initial_state(config, mesh)

    def update(batch: np.ndarray) -> float:
        nonlocal state
        state, metrics = step(state, batch.astype(np.int32))
        return float(jax.block_until_ready(metrics.loss))

    return update, facts


def matmul_ceiling(dtype: str, count: int = 10) -> float:
    """Operations per second of one large matrix product of random numbers here: the median of `count`."""
    import jax
    import jax.numpy as jnp

    size = 8192 if jax.default_backend() == "gpu" else 1024
    a, b = jax.random.normal(jax.random.key(0), (2, size, size), jnp.dtype(dtype))
    result = None if jax.default_backend() == "gpu" else jnp.float32  # a bfloat16 result is slower on a CPU
    product = jax.jit(partial(jnp.matmul, preferred_element_type=result))
    times = [seconds(lambda: product(a, b).block_until_ready())[0] for _ in range(count + 1)]
    return 2 * size**3 / statistics.median(times[1:])  # the first compiles


def utilisation(config: Any, seconds: float) -> dict[str, float]:
    """Model FLOPs per second as parts of the peak of the data sheet, where it is known: causal, and PaLM's count."""
    import jax

    from jaxgpt.inspect.flops import flops_per_token
    from jaxgpt.inspect.hardware import HARDWARE

    tokens = config.batch_size * config.model.context_length
    done = {
        name: flops_per_token(config.model, causal=name == "causal") * tokens / seconds for name in ("causal", "palm")
    }
    found = {f"{name}_flops_per_second": value for name, value in done.items()}
    for device, sheet in HARDWARE.items():
        if device in jax.devices()[0].device_kind.lower():
            found |= {f"{name}_mfu": value / sheet.flops for name, value in done.items()}
    return found


def _command(arguments: Arguments, preset: str, known: tuple[str, ...]) -> str:
    command = f"python -m experiments.speed --preset {preset} --rounds {arguments.rounds} --steps {arguments.steps}"
    if arguments.rows != known:
        command += f" --rows {' '.join(arguments.rows)}"
    command += " --fused" * arguments.fused
    return command + " --compile" * arguments.compile + " --nanogpt FOLDER" * bool(arguments.nanogpt)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
