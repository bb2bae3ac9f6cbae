"""What do rotary positions, grouped heads and windows change: in size, in cost, in speed, in loss?

    python -m experiments.variants [--size cpu|gpu] [--seeds 4]

Every variant is trained on tiny Shakespeare by characters, on the same batches in the same order, from the same seeds;
losses are compared seed by seed (paired t-test, two-sided, not corrected: with six comparisons, Bonferroni asks for
p < 0.008). Speeds are ratios to the baseline, timed in turns. A finished (variant, seed) is kept in runs/, so a run
that was stopped goes on; the summary is experiments/results/variants-SIZE.json.
What it does not show: models or contexts of a useful size, training until the loss stops falling (a variant that learns
faster may not end lower), tuned settings for each variant (all have the baseline's), speeds on another machine. The
same seed gives the same batches; the weights it draws differ where the list of parameters does.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro

from experiments import evidence, short_run
from experiments.costs import costs, gpt2_costs, variants
from experiments.interleaved import Program, times_as_fast
from jaxgpt.config import GPTConfig
from jaxgpt.data import TokenData, prepare
from jaxgpt.inference.generate import generate
from jaxgpt.parallel.mesh import one_device
from jaxgpt.training.config import DataConfig, OptimizerConfig, TrainConfig
from jaxgpt.training.step import initial_state


class Size(NamedTuple):
    """What is trained."""

    config: TrainConfig
    kv_heads: tuple[int, ...]
    window: int
    decode_rows: int
    """Texts that are continued at once."""


SHAKESPEARE = DataConfig("shakespeare", "char")
SIZES = {
    "cpu": Size(
        TrainConfig(
            model=GPTConfig.preset("shakespeare-char-cpu", d_model=64),
            data=SHAKESPEARE,
            optimizer=OptimizerConfig(4e-3, 2e-4, warmup_steps=40, beta2=0.99),
            steps=400,
            batch_size=12,
            eval_every=50,
            eval_batches=5,
        ),
        kv_heads=(2, 1),
        window=16,
        decode_rows=8,
    ),
    "gpu": Size(
        TrainConfig(
            model=GPTConfig.preset("shakespeare-char", dtype="bfloat16"),
            data=SHAKESPEARE,
            optimizer=OptimizerConfig(1e-3, 1e-4, warmup_steps=100, beta2=0.99),
            steps=3000,
            batch_size=64,
            eval_every=250,
            eval_batches=20,
        ),
        kv_heads=(3, 2, 1),
        window=64,
        decode_rows=64,
    ),
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train and time every variant, and write the summary."""

    size: Literal["cpu", "gpu"] = "cpu"
    """cpu: under 15 minutes on two cores. gpu: hours on them."""
    seeds: int = 4
    """Runs of each variant."""
    steps: int | None = None
    """Updates of each run, where not the size's own; the result is then not comparable, and is not committed."""
    rounds: int = 6
    """Pairs of timings."""
    runs: Path = Path("runs")
    """Where finished runs are kept."""
    results: Path = evidence.RESULTS
    """Where the summary goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Everything, in the order in which it is cheapest to lose."""
    short_run.keep_programs()
    size = SIZES[arguments.size]
    config = dataclasses.replace(size.config, steps=arguments.steps or size.config.steps)
    environment = evidence.environment(f"python -m experiments.variants --size {arguments.size}")
    data = prepare(config.data.source, config.data.tokenizer)
    models = variants(config.model, size.kv_heads, size.window)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in models}
    for seed in range(arguments.seeds):  # all variants of a seed before the next seed
        for name, model in models.items():
            this = dataclasses.replace(config, model=model, seed=seed)
            runs[name].append(kept_run(arguments.runs / f"variants-{arguments.size}", f"{name}-{seed}", this, data))
    rows = {name: costs(model, config.model) | losses(runs[name], runs["baseline"]) for name, model in models.items()}
    baseline = programs(size, config, config.model)
    for name, model in models.items():
        rows[name] |= speeds(programs(size, config, model), baseline, arguments.rounds)
        print(f"{name}: {rows[name]['train_speed']} {rows[name]['decode_speed']}", flush=True)
    result = {
        "environment": environment,
        "config": config.to_dict(),
        "seeds": arguments.seeds,
        "step_seconds_of_baseline": step_seconds(runs["baseline"], config.steps),
        "variants": rows,
        "gpt2": gpt2_costs(),
    }
    evidence.write(f"variants-{arguments.size}", result, arguments.results)
    return result


def kept_run(folder: Path, name: str, config: TrainConfig, data: TokenData) -> dict[str, Any]:
    """The curve and the final losses of a run: read where it is finished, else made."""

    def make() -> dict[str, Any]:
        model, curve = short_run.train(config, data)
        by_position = short_run.losses_by_position(model, short_run.whole_validation(config, data))
        print(f"{name}: loss {by_position.mean():.4f}, {curve['step_seconds']:.0f} s", flush=True)
        return {"loss": float(by_position.mean()), "by_position": by_position.tolist(), **curve}

    return evidence.kept(name, config.to_dict(), make, folder)


def losses(runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: the final loss on all held-back text, beside the baseline's; by position; by tokens read."""
    final = [run["loss"] for run in runs]
    curves = np.array([run["validation"] for run in runs])
    return {
        "loss": statistics.fmean(final),
        "loss_se": evidence.standard_error(final),
        "losses": final,
        "against_baseline": evidence.paired(final, [run["loss"] for run in baseline]),
        "by_position": np.mean([run["by_position"] for run in runs], axis=0).tolist(),
        "curve": {
            "tokens": runs[0]["tokens"],
            "validation": curves.mean(axis=0).tolist(),
            "validation_se": [evidence.standard_error(column.tolist()) for column in curves.T],
        },
    }


def step_seconds(runs: list[dict[str, Any]], steps: int) -> dict[str, float]:
    """Seconds of a training step, the median over the runs; the first step, which compiles, is left out."""
    parts = {"wall": "step_seconds", "processor": "step_processor_seconds"}
    return {name: statistics.median(run[key] for run in runs) / max(steps - 1, 1) for name, key in parts.items()}


def programs(size: Size, config: TrainConfig, model: GPTConfig) -> tuple[Program, Program]:
    """What is timed of a model: training and decoding."""
    return short_run.training(dataclasses.replace(config, model=model)), decoding(model, size.decode_rows)


def speeds(ours: tuple[Program, Program], baseline: tuple[Program, Program], rounds: int) -> dict[str, Any]:
    """How many times as fast as the baseline a training step and decoding are, timed in turns with it."""
    train, decode = (times_as_fast(*pair, rounds) for pair in zip(ours, baseline, strict=True))
    return {"train_speed": train, "decode_speed": decode}


def decoding(model: GPTConfig, rows: int) -> Program:
    """A program that writes a whole context from one token, several texts at once."""
    weights = initial_state(TrainConfig(model=model), one_device()).model
    return lambda: generate(weights, np.zeros((rows, 1), np.int32), model.context_length - 1, temperature=0)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
