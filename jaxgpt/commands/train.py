"""`jaxgpt train`."""

import dataclasses
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from jaxgpt.training.config import RUNS, TrainConfig

if TYPE_CHECKING:
    from jaxgpt.data import TokenData
    from jaxgpt.model.gpt import GPT
    from jaxgpt.training.run import Run


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The flags of `jaxgpt train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """The folder to make for the run. None: runs/PRESET-DATE-TIME."""
    resume: Path | None = None
    """Go on with this run. Flags beside it change the run, such as --steps."""


def main(arguments: list[str]) -> int:
    """Train a preset, or resume a run, and write a sample; returns the exit code."""
    preset, resume, flags = _target(arguments)
    config = _resumed_config(resume) if resume else TrainConfig.preset(preset)
    chosen = tyro.cli(
        Arguments, prog="jaxgpt train [PRESET]", description=_description(), args=flags, default=Arguments(config)
    )
    if resume is None:
        return _start(chosen.run or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}", chosen.config)
    if chosen.run is not None:
        raise ValueError(f"--resume {resume} already names the run folder; leave out --run {chosen.run}")
    return _resume(resume, chosen.config)


def _target(arguments: list[str]) -> tuple[str, Path | None, list[str]]:
    """Which preset, which run to resume, and the flags: they decide what the flags' defaults are."""
    flags = list(arguments)
    named = flags.pop(0) if flags and not flags[0].startswith("-") else None
    resume = None
    for index, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name == "--resume":
            if not equals and index + 1 == len(flags):
                raise ValueError("--resume needs the run folder to go on with")
            resume = Path(value if equals else flags[index + 1])
            del flags[index : index + (1 if equals else 2)]
            break
    if resume and named:
        raise ValueError(f"--resume {resume} knows its preset; leave out {named!r}")
    return named or "quickstart", resume, flags


def _description() -> str:
    presets = "\n\n".join(f"{name}: {run.purpose}" for name, run in RUNS.items())
    return f"Train a GPT. Without arguments: the quickstart preset.\n\nPRESETS\n\n{presets}"


def _resumed_config(folder: Path) -> TrainConfig:
    from jaxgpt.training.run import read_run

    return read_run(folder).config


def _start(folder: Path, config: TrainConfig) -> int:
    from jaxgpt.data import prepare
    from jaxgpt.training.run import check_is_new, create_run

    check_is_new(folder)
    console = Console(highlight=False)
    with console.status(f"reading {config.data.source}"):
        data = prepare(config.data.source, config.data.tokenizer)
    return _train(create_run(folder, config, data), data, console)


def _resume(folder: Path, config: TrainConfig) -> int:
    from jaxgpt.training.run import read_run, reconfigure

    run = reconfigure(read_run(folder), config)
    return _train(run, run.data(), Console(highlight=False))


def _train(run: "Run", data: "TokenData", console: Console) -> int:
    from jaxgpt.training.loop import TrainingStopped, train

    _print_header(run, data, console)
    began = time.perf_counter()
    try:
        model = train(run, data, console)
    except TrainingStopped as stop:
        console.print(f"{stop}; go on with: jaxgpt train --resume {run.folder}", soft_wrap=True)
        return 128 + stop.signal if stop.signal == signal.SIGINT else 0
    console.print(f"done in {time.perf_counter() - began:.0f} s")
    if run.config.sample_tokens:
        _print_sample(run, model, console)
    console.print(f'go on with: jaxgpt generate {run.folder} --prompt "..."', soft_wrap=True)
    return 0


def _print_header(run: "Run", data: "TokenData", console: Console) -> None:
    import jax

    from jaxgpt.model.gpt import abstract_model, num_parameters
    from jaxgpt.training.step import describe_attention

    config = run.config
    counts = {name: split["tokens"] for name, split in data.manifest["splits"].items()}
    table = Table.grid(padding=(0, 2))
    table.add_row("run", str(run.folder))
    table.add_row("model", f"{num_parameters(abstract_model(config.model)):,} parameters, {config.model.dtype}")
    table.add_row("data", f"{config.data.source}: {counts['train']:,} tokens, {counts['validation']:,} held back")
    table.add_row("steps", f"{config.steps} of {config.batch_size} x {config.model.context_length} tokens")
    table.add_row("device", f"{jax.devices()[0].device_kind}; attention: {describe_attention(config.model)}")
    console.print(table, soft_wrap=True)


def _print_sample(run: "Run", model: "GPT", console: Console) -> None:
    """Write a sample into the run folder and show it."""
    from jaxgpt.inference.generate import generate

    count = run.config.sample_tokens
    if model.config.max_length is not None:
        count = min(count, model.config.max_length - 1)
    start = run.tokenizer.end_of_text
    prompt = [start] if start is not None else run.tokenizer.encode("\n").tolist()
    tokens = generate(model, [prompt], count, temperature=0.8, seed=run.config.seed, stop_token=start)
    text = run.tokenizer.decode(token for token in tokens[0] if token != start)
    (run.folder / "samples" / f"{run.config.steps}.txt").write_text(text, encoding="utf-8")
    console.rule("sample")
    console.print(text, markup=False, soft_wrap=True)
    console.rule()
