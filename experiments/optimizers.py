"""How much less text and time does Muon need than AdamW to reach the same loss?

    python -m experiments.optimizers [--seeds 4]

Both train the presets for two CPU cores, shortened. Each gets the same learning rates, each twice the one before, tried
with one seed that is not used again; the best of each is then trained with four more. A finished run is kept in
runs/, so an experiment that was stopped goes on. Speeds are timed in turns.
What it does not show: models of a useful size, runs of full length (a shorter run favours the faster start), other
settings than the learning rate tuned, and speeds on another machine.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import evidence, short_run
from experiments.interleaved import times_as_fast
from jaxgpt.data import TokenData, prepare
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.source import follow_vocabulary

STEPS = {"quickstart": 80, "shakespeare-char-cpu": 200}
"""Updates of each preset, of its 500 and 2000."""
NAMES = ("adamw", "muon")
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 6.4e-2)
TUNED_WITH = 1000
"""The seed of the trials."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Tune and train both, and write the summary."""

    seeds: int = 4
    """Runs at the best learning rate."""
    presets: tuple[str, ...] = tuple(STEPS)
    """What is trained."""
    rounds: int = 6
    """Pairs of timings."""
    runs: Path = Path("runs")
    """Where finished runs are kept."""
    results: Path = evidence.RESULTS
    """Where the summary goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Everything, preset by preset."""
    short_run.keep_programs()
    environment = evidence.environment("python -m experiments.optimizers")
    found = {name: compared(name, arguments) for name in arguments.presets}
    result = {"environment": environment, "seeds": arguments.seeds, "presets": found, "tables": list(tables(found))}
    evidence.write("optimizers", result, arguments.results)
    return result


def compared(preset: str, arguments: Arguments) -> dict[str, Any]:
    """Both optimizers on a preset."""
    config = shortened(preset)
    data = prepare(config.data.source, config.data.tokenizer)
    config = follow_vocabulary(config, data.tokenizer)
    rows = {name: tuned(preset, with_rate(config, name), data, arguments) for name in NAMES}
    target = statistics.fmean(rows["adamw"]["losses"])
    speed = times_as_fast(
        *(short_run.training(with_rate(config, name, rows[name]["learning_rate"])) for name in ("muon", "adamw")),
        arguments.rounds,
    )
    step = {
        "muon": speed["seconds"] / short_run.TIMED_STEPS,
        "adamw": speed["seconds_of_baseline"] / short_run.TIMED_STEPS,
    }
    tokens_per_step = config.batch_size * config.model.context_length
    for name, row in rows.items():
        row["tokens_to_target"] = first_below(row["curve"], target)
        row["step_seconds"] = step[name]
        tokens = row["tokens_to_target"]
        row["seconds_to_target"] = None if tokens is None else tokens / tokens_per_step * step[name]
    bits = {} if data.bytes_per_token is None else {"bytes_per_token": data.bytes_per_token}
    return {"config": config.to_dict(), "target": target, "muon_speed": speed, **bits, "optimizers": rows}


def shortened(preset: str) -> TrainConfig:
    """The preset in fewer updates, falling linearly to 0, so that all of them end alike."""
    config = TrainConfig.preset(preset)
    steps = STEPS[preset]
    optimizer = dataclasses.replace(
        config.optimizer, schedule="linear", final_learning_rate=0.0, warmup_steps=steps // 10
    )
    mesh = MeshConfig(data=1, allow_idle=True)
    rule = {"steps": steps, "eval_every": steps // 8, "eval_batches": 2, "optimizer": optimizer, "mesh": mesh}
    return dataclasses.replace(config, **rule)


def with_rate(config: TrainConfig, name: str, rate: float | None = None) -> TrainConfig:
    rate = config.optimizer.learning_rate if rate is None else rate
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, name=name, learning_rate=rate))


def tuned(preset: str, config: TrainConfig, data: TokenData, arguments: Arguments) -> dict[str, Any]:
    """The losses at all rates, and those of the best one over the seeds."""
    name, folder = config.optimizer.name, arguments.runs / "optimizers"

    def run(rate: float, seed: int) -> dict[str, Any]:
        this = dataclasses.replace(with_rate(config, name, rate), seed=seed)
        label = f"{preset}-{name}-{rate:g}-{seed}"

        def make() -> dict[str, Any]:
            curve = short_run.train(this, data)[1]
            print(f"{label}: loss {curve['validation'][-1]:.4f}", flush=True)
            return curve

        return evidence.kept(label, this.to_dict(), make, folder)

    trials = {rate: run(rate, TUNED_WITH)["validation"][-1] for rate in RATES}
    best = min(trials, key=trials.__getitem__)
    runs = [run(best, seed) for seed in range(arguments.seeds)]
    losses = [each["validation"][-1] for each in runs]
    curves = np.array([each["validation"] for each in runs])
    return {
        "trials": {f"{rate:g}": loss for rate, loss in trials.items()},
        "learning_rate": best,
        "losses": losses,
        "loss": statistics.fmean(losses),
        "loss_se": evidence.standard_error(losses),
        "curve": {
            "tokens": runs[0]["tokens"],
            "validation": curves.mean(axis=0).tolist(),
            "validation_se": [evidence.standard_error(column.tolist()) for column in curves.T],
        },
    }


def first_below(curve: dict[str, list[float]], target: float) -> float | None:
    """Tokens after which the loss is at the target, between two validations by a straight line.

    >>> first_below({"tokens": [0, 100, 200], "validation": [5.0, 3.0, 2.0]}, 2.5)
    150.0
    """
    points = zip(curve["tokens"], curve["validation"])
    for (before, high), (after, low) in pairwise(points):
        if low <= target:
            return before + (after - before) * (high - target) / (high - low)
    return None


def tables(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """For the page: each preset's optimizers, and the trials."""
    for preset, result in found.items():
        rows = result["optimizers"]
        yield {
            "title": f"{preset}: to AdamW's final loss of {result['target']:.3f} nats per token",
            "head": ("", "learning rate", "final loss", "tokens", "seconds", "ms a step"),
            "rows": [
                (
                    name,
                    f"{row['learning_rate']:g}",
                    f"{row['loss']:.4f}" + ("" if row["loss_se"] is None else f" ± {row['loss_se']:.4f}"),
                    "not reached" if row["tokens_to_target"] is None else f"{row['tokens_to_target']:,.0f}",
                    "not reached" if row["seconds_to_target"] is None else f"{row['seconds_to_target']:.1f}",
                    f"{1000 * row['step_seconds']:.0f}",
                )
                for name, row in rows.items()
            ],
        }
        yield {
            "title": f"{preset}: the final loss at each learning rate tried",
            "head": ("", *(f"{rate:g}" for rate in RATES)),
            "rows": [(name, *(f"{loss:.4f}" for loss in row["trials"].values())) for name, row in rows.items()],
        }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
