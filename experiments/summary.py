"""What docs/experiments.md says of the results, written from them: no number in it is typed by hand."""

from collections.abc import Iterator
from pathlib import Path

from experiments.answers import answered, signed
from experiments.charts import Result
from experiments.sections import difference, p_value, plus_minus, ratio

PAGE = Path(__file__).parent.parent / "docs" / "experiments.md"
BEGIN, END = "<!-- written by python -m experiments.report -->", "<!-- end -->"


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
            "\n### Parallel modes\n\nThe losses of DDP, FSDP and hybrid on 8 devices, and of hybrid in two processes, "
            f"differ from one device's\nby at most {apart:.1e} of them over {len(modes['one device']['losses'])} steps "
            "([experiments/parallel.py](../experiments/parallel.py))."
        )
    if "optimizers" in results:
        yield from optimizers(results["optimizers"])


def optimizers(result: Result) -> Iterator[str]:
    """Tokens and seconds to the same loss."""
    first = next(iter(result["presets"].values()))
    rates = len(first["optimizers"]["adamw"]["trials"])
    yield (
        f"\n### AdamW and Muon\n\nBoth tuned alike: the best of {rates} learning rates, each twice the one before, "
        f"then {result['seeds']} other seeds ([experiments/optimizers.py](../experiments/optimizers.py)). "
        "Tokens and seconds until the mean\n"
        "loss is AdamW's last, in shortened runs; the presets run longer, at smaller rates:\n"
    )
    yield "| preset, shortened | optimizer | learning rate | last loss | tokens | seconds |"
    yield "|---|---|---|---|---|---|"
    for preset, found in result["presets"].items():
        for name, row in found["optimizers"].items():
            tokens, seconds = row["tokens_to_target"], row["seconds_to_target"]
            cells = (f"{row['learning_rate']:g}", plus_minus(row["loss"], row["loss_se"]))
            reached = ("not reached", "") if tokens is None else (f"{tokens:,.0f}", f"{seconds:.1f}")
            yield f"| {preset} | {name} | {' | '.join((*cells, *reached))} |"


def variants(result: Result) -> Iterator[str]:
    """Trained beside each other."""
    config = result["config"]
    tokens = config["steps"] * config["batch_size"] * config["model"]["context_length"]
    lost = {name: signed(row["parameters_difference"]) for name, row in result["gpt2"].items()}
    yield (
        f"Parameters at 124M: rotary {lost['rotary']}, 4 of 12 key-value heads {lost['grouped-4']}, 1 of 12 "
        f"{lost['grouped-1']}, a window {lost['windowed']}. The data do not matter.\n"
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
    yield (
        f"\n### Uptraining\n\nA baseline at {result['baseline_loss']:.2f} nats is converted, then trained for another "
        f"{rows['unchanged, text']['tokens'][-1]:,} characters ([experiments/uptrain.py](../experiments/uptrain.py)). "
        "Validation loss in nats:\n"
    )
    yield "| conversion | at once | after training | the same training from fresh weights |"
    yield "|---|---|---|---|"
    for name in ("rotary", "grouped", "windowed", "all"):
        text, scratch = rows[f"{name}, text"], rows[f"{name}, scratch"]
        yield f"| {name} | {text['at_once']:.2f} | {text['after']:.2f} | {scratch['after']:.2f} |"


def window(result: Result) -> Iterator[str]:
    """How the cost grows."""
    longest = next(iter(result["rows"].values()))[-1]["length"]
    yield (
        "\n### Long contexts\n\nProcessor time of a training step grows with a power of the context length. R² says "
        "how well a straight line fits ([experiments/window.py](../experiments/window.py)):\n"
    )
    yield f"| attention | exponent | R² of a line | timed up to | memory of a step at {longest:,} tokens |"
    yield "|---|---|---|---|---|"
    for name, rows in result["rows"].items():
        if fit := result["fits"][name].get("step_processor_seconds"):
            run = max(row["length"] for row in rows if "step_seconds" in row)
            memory = rows[-1]["step_temporary_megabytes"] / 1000
            yield f"| {name} | {fit['exponent']:.2f} | {fit['r2']:.4f} | {run:,} tokens | {memory:.3g} GB |"
