"""`jaxgpt train`."""

import dataclasses
import logging
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.host_memory import keep_freed_memory
from jaxgpt.training.config import CORPORA, RUNS, TrainConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh

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
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    """Several processes."""


def main(arguments: list[str]) -> int:
    """Train a preset, or resume a run, and write a sample; returns the exit code."""
    from jaxgpt.runtime.output import lasting_output
    from jaxgpt.runtime.signals import command_signals

    keep_freed_memory()
    with lasting_output(), command_signals():
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    flags = list(arguments)
    named = flags.pop(0) if flags and not flags[0].startswith("-") else None
    resume = _flag(flags, "--resume", "the run folder to go on with")
    if resume and named:
        raise ValueError(f"--resume {resume} knows its preset; leave out {named!r}")
    preset = named or "quickstart"
    _join(flags)
    if resume:
        config, model = _resumed_config(Path(resume)), None
    else:
        config, model = _started_config(TrainConfig.preset(preset), _flag(flags, "--init", "the weights to start from"))
    chosen = tyro.cli(
        Arguments, prog="jaxgpt train [PRESET]", description=_description(), args=flags, default=Arguments(config)
    )
    config = _found_anywhere(chosen.config)
    if not resume:
        if chosen.run is None and chosen.cluster.is_multiprocess:
            raise ValueError("several processes need one name for the run's folder: --run FOLDER")
        folder = chosen.run or Path("runs") / f"{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
        return _start(folder, config, model)
    if chosen.run is not None:
        raise ValueError(f"--resume {resume} already names the run folder; leave out --run {chosen.run}")
    return _resume(Path(resume), config)


def _join(flags: list[str]) -> None:
    """Find the other processes, where the flags say that there are any."""
    known = [flag for flag in flags if flag not in ("-h", "--help")]
    cluster = tyro.cli(Cluster, args=known, return_unknown_args=True)[0]
    if cluster.is_multiprocess:
        from jaxgpt.runtime.processes import connect

        connect(cluster)


def _flag(flags: list[str], name: str, meaning: str) -> str | None:
    """The value of a flag that decides the defaults of all others."""
    for index, flag in enumerate(flags):
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2]
        if flag == name:
            if index + 1 == len(flags):
                raise ValueError(f"{name} needs a value: {meaning}")
            return flags[index + 1]
    return None


def _started_config(config: TrainConfig, source: str | None) -> tuple[TrainConfig, "GPT | None"]:
    """The preset with the model, and for a run the text, of the weights it starts from; and these."""
    if source is None:
        return config, None
    from jaxgpt.loading import load
    from jaxgpt.training.run import is_run, read_run

    model = load(source)
    data = read_run(Path(source)).config.data if is_run(Path(source)) else config.data
    return dataclasses.replace(config, model=model.config, data=data, init=source), model


def _description() -> str:
    presets = "\n\n".join(
        f"{name}: {run.purpose} ({run.config.model.num_layers} layers, width {run.config.model.d_model})"
        for name, run in RUNS.items()
    )
    return f"Train a GPT. Without arguments: the quickstart preset.\n\nPRESETS\n\n{presets}"


def _resumed_config(folder: Path) -> TrainConfig:
    from jaxgpt.training.run import read_run

    return read_run(folder).config


def _start(folder: Path, config: TrainConfig, model: "GPT | None") -> int:
    from jaxgpt.data import prepare
    from jaxgpt.loading import adapt_weights
    from jaxgpt.runtime.processes import on_main_process
    from jaxgpt.training.loop import check_can_train, save_start
    from jaxgpt.training.run import check_is_new, create_run, read_run

    mesh = _mesh(config)
    on_main_process(lambda: check_is_new(folder))
    console = _console()
    with console.status(f"reading {config.data.source}"):
        data = prepare(config.data.source, config.data.tokenizer)
    check_can_train(config, data, mesh)
    teacher = _teacher(config)
    on_main_process(lambda: create_run(folder, config, data))
    run = read_run(folder)
    if model is not None:
        save_start(run, adapt_weights(model, config.model), mesh)
    return _train(run, data, mesh, console, teacher)


def _mesh(config: TrainConfig) -> "Mesh":
    """The devices of all processes. Raises ValueError where they do not fit."""
    import jax

    from jaxgpt.runtime.processes import check_equal_hosts

    check_equal_hosts(jax.devices())
    return config.mesh.make()


def _teacher(config: TrainConfig) -> "GPT | None":
    """The model to learn from. Raises ValueError where it counts tokens differently."""
    if config.distill is None:
        return None
    from jaxgpt.loading import load

    teacher = load(config.distill, dtype=config.model.dtype)
    if teacher.config.vocab_size != config.model.vocab_size:
        raise ValueError(
            f"--distill {config.distill} has {teacher.config.vocab_size} tokens and the model "
            f"{config.model.vocab_size}; distillation needs the same vocabulary"
        )
    teacher.config.check_length(config.model.context_length)
    return teacher


def _resume(folder: Path, config: TrainConfig) -> int:
    from jaxgpt.runtime.processes import on_main_process
    from jaxgpt.training.loop import check_can_train
    from jaxgpt.training.run import read_run, reconfigured, write_config

    mesh = _mesh(config)
    run = reconfigured(read_run(folder), config)
    data = run.data()
    check_can_train(config, data, mesh)
    teacher = _teacher(config)
    on_main_process(lambda: write_config(run))
    return _train(run, data, mesh, _console(), teacher)


def _console() -> Console:
    """Prints what it is given: paths and samples may hold what rich would read as markup. Only one process speaks."""
    from jaxgpt.runtime.processes import is_main_process

    return Console(highlight=False, markup=False, emoji=False, quiet=not is_main_process())


def _found_anywhere(config: TrainConfig) -> TrainConfig:
    """With the whole paths of what it reads, so that a run is resumed from any folder."""

    def whole(source: str | None) -> str | None:
        path = None if source is None else Path(source).expanduser()
        return source if path is None or source in CORPORA or not path.exists() else str(path.resolve())

    data = dataclasses.replace(config.data, source=whole(config.data.source) or config.data.source)
    return dataclasses.replace(config, data=data, init=whole(config.init), distill=whole(config.distill))


def _train(run: "Run", data: "TokenData", mesh: "Mesh", console: Console, teacher: "GPT | None") -> int:
    from jaxgpt.runtime.signals import set_resume_command
    from jaxgpt.training.loop import TrainingStopped, train
    from jaxgpt.training.run import resume_command

    set_resume_command(resume_command(run.folder))
    _print_header(run, data, mesh, console)
    began = time.perf_counter()
    try:
        with _orbax_hushed():
            model = train(run, data, mesh, console, teacher)
    except TrainingStopped as stop:
        console.print(f"{stop}; go on with: {resume_command(run.folder)}", soft_wrap=True)
        return 128 + stop.signal if stop.signal == signal.SIGINT else 0
    console.print(f"done in {time.perf_counter() - began:.0f} s")
    if run.config.sample_tokens:
        _print_sample(run, model, console)
    console.print(f'go on with: jaxgpt generate {shlex.quote(str(run.folder))} --prompt "..."', soft_wrap=True)
    return 0


@contextmanager
def _orbax_hushed() -> Iterator[None]:
    """Where a save fails, our message is enough: orbax and its event loop log each failed write, Python warns (now and
    then, as it ends) of writes that were never begun, and tensorstore prints callbacks that come late.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine 'async_serialize_from_host", RuntimeWarning)
    usual = sys.unraisablehook

    def print_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            usual(unraisable)

    sys.unraisablehook = print_unless_late
    try:
        yield
    except ValueError:
        time.sleep(1)  # for the writes that were under way beside the one that failed
        raise
    finally:
        sys.unraisablehook = usual


def _print_header(run: "Run", data: "TokenData", mesh: "Mesh", console: Console) -> None:
    import jax

    from jaxgpt.model.parameters import abstract_model, num_parameters
    from jaxgpt.parallel.sharding import bytes_per_device
    from jaxgpt.runtime.processes import count_hosts
    from jaxgpt.training.step import abstract_state, describe_attention

    config, device = run.config, jax.devices()[0]
    counts = {name: split["tokens"] for name, split in data.manifest["splits"].items()}
    tokens = config.batch_size * config.model.context_length
    rows = {
        "run": run.folder,
        "model": f"{num_parameters(abstract_model(config.model)):,} parameters, {config.model.dtype}",
        "data": f"{config.data.source}: {counts['train']:,} tokens, {counts['validation']:,} held back",
        "steps": f"{config.steps} of {config.batch_size} x {config.model.context_length} tokens",
        "device": f"{device.device_kind}; attention: {describe_attention(config.model)}",
    }
    if len(jax.devices()) > 1:
        where = f"{_counted(count_hosts(), 'host')}, {_counted(jax.process_count(), 'process')}"
        rows["mesh"] = (
            f"{where}, {mesh.size} of {len(jax.devices())} devices: "
            f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}, zero {config.zero}"
        )
        rows["each"] = (
            f"{bytes_per_device(abstract_state(config, mesh)) / 1e6:,.1f} MB of state, "
            f"{tokens // mesh.size:,} tokens a step in {config.microbatches} microbatches"
        )
    for name, value in rows.items():
        console.print(f"{name:<7} {value}", soft_wrap=True)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def _print_sample(run: "Run", model: "GPT", console: Console) -> None:
    """Write a sample into the run folder and show it."""
    from jaxgpt.inference.generate import generate
    from jaxgpt.runtime.processes import is_main_process

    start = run.tokenizer.end_of_text
    prompt = [start] if start is not None else run.tokenizer.encode("\n").tolist()
    count, seed = run.config.sample_tokens, run.config.seed
    tokens = generate(model, [prompt], count, temperature=0.8, seed=seed, stop_token=start, slide=True)
    text = run.tokenizer.decode(token for token in tokens[0] if token != start)
    if is_main_process():
        (run.folder / "samples" / f"{run.config.steps}.txt").write_text(text, encoding="utf-8")
    console.rule("sample")
    console.print(text, soft_wrap=True)
    console.rule()
