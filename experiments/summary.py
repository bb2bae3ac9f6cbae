"""What docs/experiments.md says of the results, written from them: no number in it is typed by hand."""

from collections.abc import Iterator
from pathlib import Path

from experiments.answers import answered, signed
from experiments.charts import Result
from experiments.sections import difference, p_value, plus_minus, ratio

PAGE = Path(__file__).parent.parent / "docs" / "experiments.md"
BEGIN, END = "<!-- written by python -m experiments.report -->", "<!-- end -->"
BREAK = ";\n  "


def written(page: str, results: dict[str, Result]) -> str:
    """The page with the section as the results have it. Raises ValueError where it has no place for it."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{PAGE.name} has no {BEGIN} ... {END} to write between")
    return before + begin + "\n" + "\n".join(section(results)) + "\n" + end + after


def section(results: dict[str, Result]) -> Iterator[str]:
    """Its lines."""
    if "variants-cpu" in results:
        for question, *said in answered(results["variants-cpu"]):
            yield f"## {question}\n"
            yield from (f"{part.strip()}\n" for part in said)
        yield "## Measured\n"
        yield from variants(results["variants-cpu"])
    if "uptrain-cpu" in results:
        yield from uptrain(results["uptrain-cpu"])
    if "window" in results:
        yield from window(results["window"])
    if "parallel" in results:
        modes = results["parallel"]["modes"]
        apart = results["parallel"]["largest_relative_difference"]
        yield (
            "- Parallel modes: the losses of DDP, FSDP and hybrid on 8 devices, and of hybrid in two processes, differ "
            f"from one device's\n  by at most {apart:.1e} of them over {len(modes['one device']['losses'])} steps "
            "([experiments/parallel.py](../experiments/parallel.py))."
        )


def variants(result: Result) -> Iterator[str]:
    """Trained beside each other."""
    config = result["config"]
    tokens = config["steps"] * config["batch_size"] * config["model"]["context_length"]
    lost = {name: signed(row["parameters_difference"]) for name, row in result["gpt2"].items()}
    yield (
        f"Parameters at 124M: rotary {lost['rotary']}, 4 of 12 key-value heads {lost['grouped-4']}, 1 of 12 "
        f"{lost['grouped-1']}, a window {lost['windowed']}. Data play no part.\n"
    )
    yield "| variant | parameters | cache, full | validation loss | against baseline | p | training | decoding |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, row in result["variants"].items():
        cells = (
            signed(row["parameters_difference"]),
            f"{row['cache_bytes_full_context'] / 1024:.0f} KiB",
            plus_minus(row["loss"], row["loss_se"]),
            "" if name == "baseline" else difference(row),
            p_value(row),
            ratio(row["train_speed"]),
            ratio(row["decode_speed"]),
        )
        yield f"| {name} | {' | '.join(cells)} |"
    model = config["model"]
    yield (
        f"\n{model['num_layers']} layers, {model['num_heads']} heads, width {model['d_model']}, context "
        f"{model['context_length']}, {tokens:,} characters of tiny Shakespeare, {result['seeds']} seeds; ± is one "
        "standard error,\np of a paired t-test. Parameters are differences to the baseline. Speeds are times the "
        "baseline's, by processor time, and by the clock in brackets;\nthe baseline's row shows their noise. "
        f"The machine {'was shared with other work' if result['environment']['machine_was_shared'] else 'was idle'}.\n"
    )


def uptrain(result: Result) -> Iterator[str]:
    """The jump and the way back."""
    rows = result["rows"]
    ways = [
        f"{name} {rows[f'{name}, text']['at_once']:.2f} at once, {rows[f'{name}, text']['after']:.2f} after "
        f"training on ({rows[f'{name}, scratch']['after']:.2f} from scratch)"
        for name in ("rotary", "grouped", "windowed", "all")
    ]
    yield (
        f"- Uptraining: a baseline at {result['baseline_loss']:.2f} nats is converted and trained on for "
        f"{rows['unchanged, text']['tokens'][-1]:,} characters:\n  {BREAK.join(ways)}\n  "
        "([experiments/uptrain.py](../experiments/uptrain.py))."
    )


def window(result: Result) -> Iterator[str]:
    """How the cost grows."""
    parts = []
    for name, rows in result["rows"].items():
        if fit := result["fits"][name].get("step_processor_seconds"):
            run = max(row["length"] for row in rows if "step_seconds" in row)
            memory = rows[-1]["step_temporary_megabytes"] / 1000
            parts.append(
                f"{name}: exponent {fit['exponent']:.2f} and R² of a line {fit['r2']:.4f} up to {run:,} tokens; "
                f"{memory:.3g} GB"
            )
    yield (
        "- Long contexts: processor time of a training step against context length, and the memory that the step "
        f"needs at {rows[-1]['length']:,} tokens:\n  {BREAK.join(parts)}\n  "
        "([experiments/window.py](../experiments/window.py))."
    )
