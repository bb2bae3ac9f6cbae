"""How fast is one GPU: products, training steps, decoding; beside what was predicted. For gpu_day."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments import evidence
from experiments.gpu_parts import Context, Row, Rows, attempt
from experiments.speed import matmul_ceiling
from jaxgpt.config import GPTConfig
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import HARDWARE, UTILISATION, Hardware
from jaxgpt.training.config import TrainConfig

TRAIN: dict[str, dict[str, Any]] = {
    "train 124M": {"preset": "gpt2"},
    "train 355M": {"preset": "gpt2-medium"},
    "train window 256": {"preset": "gpt2", "batch": 4, "context_length": 8192, "window": 256},
}
REPORT = {"train 124M": "124M", "train 355M": "355M", "train window 256": "124M, window 256"}
"""The row of experiments.gpu_report that was compiled for the same."""
WANTED = {"train 124M": "wanted 46 % (PaLM)", "decode, batch 1": "wanted 4,000"}
STEPS, ROUNDS = 10, 3
BATCHES = 4
"""Batches of random tokens, read in turns. Equal numbers would need less power, and run faster."""


def device() -> Row:
    """What the machine is, and how fast it multiplies."""
    import jax

    on_gpu = jax.default_backend() == "gpu"
    environment = evidence.environment("python -m experiments.gpu_day")
    environment["size"] = "gpt2" if on_gpu else "tiny"
    reached, sheet = matmul_ceiling("bfloat16" if on_gpu else "float32"), sheet_of(environment["device"])
    return {
        "environment": environment,
        "matmul_flops_per_second": reached,
        "measured": f"{environment['device']}, products at {reached / 1e12:.4g} TFLOP/s",
        "beside": f"data sheet {sheet.flops / 1e12:.0f} TFLOP/s" if sheet else "",
    }


def sheet_of(device_kind: str) -> Hardware | None:
    """The data sheet of a device, where it is known."""
    return next((sheet for name, sheet in HARDWARE.items() if name in device_kind.lower()), None)


def train_config(name: str, context: Context) -> TrainConfig:
    """The step of a row, as gpu_report compiles it; tiny where there is no GPU."""
    options = dict(TRAIN[name])
    config, batch = TrainConfig.preset("tiny" if context.tiny else options.pop("preset")), options.pop("batch", 32)
    if context.tiny:
        changes, batch = {"window": 8} if "window" in options else {}, 2
    else:
        changes = {"attention": "cudnn", "dropout": 0.0, **options}
    model = dataclasses.replace(config.model, **changes)
    return dataclasses.replace(config, model=model, batch_size=batch, microbatches=1, remat="none")


def batches_of(config: TrainConfig) -> np.ndarray:
    """Random tokens [N, B, T + 1], the same for every program."""
    shape = (BATCHES, config.batch_size, config.model.context_length + 1)
    return np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)


def train(name: str, context: Context) -> Row:
    """Tokens per second of the training step, its memory, and what was predicted."""
    import jax

    from jaxgpt.inspect.memory import memory_needed
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import abstract_batch, abstract_state, initial_state, make_step

    config, mesh = train_config(name, context), one_device()
    began = time.perf_counter()
    step = make_step(config, mesh).lower(abstract_state(config, mesh), abstract_batch(config, mesh)).compile()
    compile_seconds = time.perf_counter() - began
    state = initial_state(config, mesh)

    def update(batch: np.ndarray) -> jax.Array:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics.loss

    seconds, losses = step_seconds(update, config, float)
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "batch": [config.batch_size, config.model.context_length],
        "compile_seconds": compile_seconds,
        "memory_planned_gigabytes": memory_needed(step) / 1e9,
        "memory_peak_gigabytes": stats["peak_bytes_in_use"] / 1e9 if stats else None,
        **speed(config, seconds, losses, context),
        **predicted(name, config, context),
    } | {"beside": ", ".join(beside(name, predicted(name, config, context)))}


def step_seconds(update: Callable[[np.ndarray], Any], config: TrainConfig, wait: Callable) -> tuple[float, list[float]]:
    """The median of rounds of steps; `wait` is called on the last loss alone. Also the losses of the first steps."""
    batches = batches_of(config)
    losses = [float(wait(update(batch))) for batch in batches]  # warms up
    timed = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for at in range(STEPS):
            loss = update(batches[at % BATCHES])
        wait(loss)
        timed.append((time.perf_counter() - began) / STEPS)
    return statistics.median(timed), losses


def speed(config: TrainConfig, seconds: float, losses: list[float], context: Context) -> Row:
    """A step's time in the units that people compare."""
    tokens = config.batch_size * config.model.context_length
    done = {causal: flops_per_token(config.model, causal=causal) * tokens / seconds for causal in (True, False)}
    sheet = sheet_of(context.device["environment"]["device"])
    row = {
        "seconds_per_step": seconds,
        "tokens_per_second": tokens / seconds,
        "losses": losses,
        "of_matmul_ceiling": done[True] / context.device["matmul_flops_per_second"],
        "measured": f"{tokens / seconds:,.0f} tokens/s",
    }
    if sheet:
        row |= {"mfu_causal": done[True] / sheet.flops, "mfu_palm": done[False] / sheet.flops}
        row["measured"] += f", MFU {row['mfu_causal']:.1%} causal, {row['mfu_palm']:.1%} PaLM"
    return row


def predicted(name: str, config: TrainConfig, context: Context) -> Row:
    """Tokens per second by `jaxgpt plan`, and by the bytes and products that gpu_report counts in the program."""
    sheet = sheet_of(context.device["environment"]["device"])
    if sheet is None:
        return {}
    tokens = config.batch_size * config.model.context_length
    products = flops_per_token(config.model) * tokens / context.device["matmul_flops_per_second"]
    kinds = reported(REPORT[name])["kinds"]
    others = sum(gigabytes for kind, (_, gigabytes) in kinds.items() if not kind.startswith("__cu"))
    return {
        "predicted_by_plan": UTILISATION * sheet.flops / flops_per_token(config.model),
        "predicted_by_gpu_report": tokens / (products + 1e9 * others / sheet.bandwidth),
    }


def beside(name: str, found: Row) -> Iterator[str]:
    """Predictions and the goal, for people."""
    for source in ("plan", "gpu_report"):
        if value := found.get(f"predicted_by_{source}"):
            yield f"{value:,.0f} by {source}"
    if name in WANTED:
        yield WANTED[name]


def reported(row: str) -> Row:
    """A row of the committed report of compiled programs."""
    return json.loads((evidence.RESULTS / "gpu_report.json").read_text())["rows"][row]


def decode_rows(context: Context) -> Rows:
    """Greedy decoding: as it is by default, by cuDNN, by our kernels."""
    ways = {"": {}} if context.tiny else {"": {}, " by cuDNN": {"attention": "cudnn"}, " fused": {"fused": True}}
    for rows, heads in ((1, None), (8, None), (64, 4)):
        for way, changes in ways.items():
            name = f"decode{way}, batch {rows}" + (f", {heads} KV heads" if heads else "")
            yield attempt(name, lambda: decoded(name, rows, heads, dict(changes), context))  # noqa: B023


def decoded(name: str, rows: int, kv_heads: int | None, changes: Row, context: Context) -> Row:
    """Tokens per second of all texts together, prompts of 8 tokens included."""
    import jax
    from flax import nnx

    from jaxgpt.inference.generate import generate
    from jaxgpt.model.gpt import GPT

    fused = changes.pop("fused", False)
    preset, dtype = ("tiny", "float32") if context.tiny else ("gpt2", "bfloat16")
    heads = None if context.tiny else kv_heads
    model = GPT(GPTConfig.preset(preset, dtype=dtype, num_kv_heads=heads, **changes), rngs=nnx.Rngs(0))
    count = model.config.context_length // 2 - 8
    prompt = np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, 8), dtype=np.int32)

    def run() -> float:
        began = time.perf_counter()
        jax.block_until_ready(generate(model, prompt, count, temperature=0, fused=fused))
        return time.perf_counter() - began

    compile_seconds = run()
    each = rows * count / statistics.median(run() for _ in range(ROUNDS))
    row = {"tokens_per_second": each, "first_call_seconds": compile_seconds, "measured": f"{each:,.0f} tokens/s"}
    if sheet := sheet_of(context.device["environment"]["device"]):
        row["at_most"] = rows * sheet.bandwidth / (1e6 * reported(name)["megabytes"])
        bound = f"at most {row['at_most']:,.0f} by gpu_report's bytes"
        row["beside"] = ", ".join([bound, *([WANTED[name]] if name in WANTED else [])])
    return row
