"""What does a change of attention cost a trained model, and how fast does training bring it back?

    python -m experiments.uptrain [--init openai-community/gpt2] [--seeds 2]

A trained baseline (one made here, or the weights at --init) is converted: fewer key-value heads, rotary in place of
learned positions, a window, all at once. Each is trained on, by the text and by distillation from the baseline, beside
the same variant from fresh weights and the baseline itself trained on unchanged; and one conversion of heads with each
kv_init. Seeds change the batches, and for fresh weights these too. A finished run is kept in runs/uptrain.
What it does not show: uptraining on the data of the original training where --init is foreign (it is tiny Shakespeare
then, too), tuned learning rates, a model that was trained to its end: the baseline of the CPU size still improves,
which is why its own continuation is shown. Fresh weights have
the gentle schedule of the others; with experiments.variants' own they come to 2.7 in as many tokens. Two seeds show the
size of an effect, and prove no small one.
"""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import tyro

from converters.adapt import adapt_weights
from experiments import evidence, short_run
from experiments.scored import task_scores
from experiments.variants import SHAKESPEARE, SIZES
from jaxgpt.data import TokenData, prepare
from jaxgpt.loading import load, load_tokenizer
from jaxgpt.model.gpt import GPT
from jaxgpt.training.config import OptimizerConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Convert, train on, and write the curves."""

    init: str | None = None
    """Weights to start from: a run, an HF folder or hub id. None: a baseline is trained first, as in variants."""
    seeds: int = 2
    """Runs of each."""
    steps: int = 50
    """Updates after the conversion."""
    baseline_steps: int = 600
    """Updates of the baseline, where it is trained here."""
    context_length: int | None = None
    """A shorter context than that of --init, to save time."""
    tasks: str | None = None
    """Standard evaluations of every model at its end, with commas between."""
    task_data: Path | None = None
    """A folder with their files. None: downloaded."""
    limit: int | None = None
    """Questions of each task. None: all."""
    runs: Path = Path("runs")
    """Where finished runs are kept."""
    results: Path = evidence.RESULTS
    """Where the summary goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Every conversion, every way back, every seed."""
    short_run.keep_programs()
    command = "python -m experiments.uptrain" + (f" --init {arguments.init}" if arguments.init else "")
    environment = evidence.environment(command)
    baseline, config, data = origin(arguments)
    conversions = conversions_of(baseline)
    folder = arguments.runs / f"uptrain-{name_of(arguments)}"
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        for name, changes in conversions.items():
            for way in ("text", "distilled", "scratch") if "kv_init" not in changes else ("text",):
                if name == "unchanged" and way != "text":
                    continue
                this = dataclasses.replace(config, model=adapt_weights(baseline, **changes).config, seed=1000 + seed)
                path = folder / f"{name}-{way}-{seed}"
                found.setdefault(f"{name}, {way}", []).append(
                    kept_run(path, this, data, baseline, changes, way, arguments)
                )
    result = {
        "environment": environment,
        "config": config.to_dict(),
        "seeds": arguments.seeds,
        "conversions": conversions,
        "baseline_loss": found["unchanged, text"][0]["validation"][0],
        "rows": {name: summary(runs) for name, runs in found.items()},
        "kv_init": ranking(found),
    }
    evidence.write(f"uptrain-{name_of(arguments)}", result, arguments.results)
    return result


def name_of(arguments: Arguments) -> str:
    return "cpu" if arguments.init is None else Path(arguments.init).name


def origin(arguments: Arguments) -> tuple[GPT, TrainConfig, TokenData]:
    """The baseline, how it is trained on, and the text."""
    optimizer = OptimizerConfig(1e-3, 1e-4, warmup_steps=10, beta2=0.99)
    common: dict[str, Any] = {"steps": arguments.steps, "eval_every": max(arguments.steps // 5, 1), "eval_batches": 6}
    if arguments.init is None:
        first = dataclasses.replace(SIZES["cpu"].config, steps=arguments.baseline_steps, eval_every=10_000)
        data = prepare(SHAKESPEARE.source, SHAKESPEARE.tokenizer)
        model, _ = short_run.train(first, data)
        return model, dataclasses.replace(first, optimizer=optimizer, **common), data
    changes = {"context_length": arguments.context_length} if arguments.context_length else {}
    model = load(arguments.init, **changes)
    data = prepare(SHAKESPEARE.source, load_tokenizer(arguments.init))
    gentle = dataclasses.replace(optimizer, learning_rate=1e-4, final_learning_rate=1e-5)
    return model, TrainConfig(model=model.config, optimizer=gentle, batch_size=8, **common), data


def conversions_of(baseline: GPT) -> dict[str, dict[str, Any]]:
    """What is changed, by name: one key-value head, a quarter of the context as window."""
    window = baseline.config.context_length // 4
    return {
        "unchanged": {},
        "rotary": {"position": "rotary"},
        "grouped": {"num_kv_heads": 1},
        "windowed": {"window": window},
        "all": {"position": "rotary", "num_kv_heads": 1, "window": window},
        "grouped, first": {"num_kv_heads": 1, "kv_init": "first"},
        "grouped, svd": {"num_kv_heads": 1, "kv_init": "svd"},
    }


def kept_run(
    path: Path,
    config: TrainConfig,
    data: TokenData,
    baseline: GPT,
    changes: dict[str, Any],
    way: str,
    arguments: Arguments,
) -> dict[str, Any]:
    """The curve of a run: read where it is finished, else made."""

    def make() -> dict[str, Any]:
        start = None if way == "scratch" else adapt_weights(baseline, **changes)
        model, curve = short_run.train(config, data, start=start, teacher=baseline if way == "distilled" else None)
        curve["tasks"] = task_scores(model, data.tokenizer, arguments.tasks, arguments.task_data, arguments.limit)
        print(f"{path.name}: {curve['validation'][0]:.4f} -> {curve['validation'][-1]:.4f}", flush=True)
        return curve

    asked = {} if arguments.tasks is None else {"tasks": [arguments.tasks, arguments.limit]}
    return evidence.kept(path.name, config.to_dict() | {"changes": changes} | asked, make, path.parent)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Over the seeds: the loss at once, and along the way."""
    points = list(zip(*(run["validation"] for run in runs), strict=True))
    return {
        "at_once": statistics.fmean(points[0]),
        "after": statistics.fmean(points[-1]),
        "tokens": runs[0]["tokens"],
        "validation": [statistics.fmean(point) for point in points],
        "validation_se": [evidence.standard_error(point) for point in points],
        **task_means(runs),
    }


def task_means(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each metric over the seeds, where tasks were asked."""
    if not runs[0].get("tasks"):
        return {}
    columns = zip(*(run["tasks"] for run in runs), strict=True)
    return {
        "tasks": {
            f"{rows[0]['task']} {rows[0]['metric']}": statistics.fmean(row["ours"] for row in rows) for rows in columns
        }
    }


def ranking(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each other kv_init beside the mean, seed by seed, at the end and averaged over the way there."""
    rows = {"first": found["grouped, first, text"], "svd": found["grouped, svd, text"]}
    pooled = found["grouped, text"]
    measures = {
        "at_the_end": lambda run: run["validation"][-1],
        "on_the_way": lambda run: statistics.fmean(run["validation"][1:]),
    }
    return {
        name: {
            which: evidence.paired([value(run) for run in runs], [value(run) for run in pooled])
            for which, value in measures.items()
        }
        for name, runs in rows.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
