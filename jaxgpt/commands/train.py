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
from typing import Annotated, Any

import tyro

from jaxgpt.commands.flags import flags_of, refuse_foreign, take_name
from jaxgpt.commands.foreign_flags import FOREIGN
from jaxgpt.commands.train_help import SHORT, description
from jaxgpt.errors import UserError
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.host_memory import keep_freed_memory
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.config_file import ConfigFile, dump_config, read_config_file
from jaxgpt.training.override import override
from jaxgpt.training.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The flags of `jaxgpt train`."""

    settings: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """The folder to make for the run. None: runs/PRESET-DATE-TIME."""
    resume: Path | None = None
    """Go on with this run, from its newest checkpoint. Flags beside it change the run, such as --steps."""
    config: Path | None = None
    """Settings from this file: a few as TOML, or a run's config.json. Flags beside it count more."""
    dry_run: bool = False
    """Do everything up to the first step, print what a step and the run would cost, and keep nothing."""
    print_config: bool = False
    """Print the settings that would be used, as --config reads them, and end."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    """Several processes."""


def main(arguments: list[str]) -> int:
    """Train a preset, or resume a run, and write a sample; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(SHORT)
        return 0
    if {"--help-all", "--print-config"} & set(arguments):
        return _main(["--help" if word == "--help-all" else word for word in arguments])
    from jaxgpt.runtime.output import lasting_output
    from jaxgpt.runtime.signals import command_signals  # imports jax, for which --help does not wait

    keep_freed_memory()
    with lasting_output(), command_signals():
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    flags, known = list(arguments), flags_of(Arguments) | {"--help": 0}
    refuse_foreign(flags, known, FOREIGN)
    resume = _value(flags, "--resume", "the run folder to go on with")
    file = _value(flags, "--config", "the file with the settings")
    preset = take_name(flags, known, PRESETS)
    if resume and (preset or file):
        raise UserError(f"--resume {resume} knows its settings; leave out {preset or f'--config {file}'}")
    join_processes(flags)
    name, settings = (None, _resumed(resume)) if resume else initial_config(preset, file, flags)
    chosen = tyro.cli(
        Arguments, prog="jaxgpt train [PRESET]", description=description(), args=flags, default=Arguments(settings)
    )
    if chosen.print_config:
        sys.stdout.write(dump_config(chosen.settings, name) + "\n")
        return 0
    if resume and chosen.run is not None:
        raise UserError(f"--resume {resume} already names the run folder; leave out --run {chosen.run}")
    if not resume and chosen.run is None and chosen.cluster.is_multiprocess:
        raise UserError("several processes need one name for the run's folder: --run FOLDER")
    return run_training(chosen, resume, name or "run", flags)


def run_training(chosen: Arguments, resume: str | None, name: str, flags: list[str]) -> int:
    """Train with these settings, and print how to go on; returns the exit code. `name` is for a folder of no name."""
    from jaxgpt.launch import dry_run, train
    from jaxgpt.runtime.processes import is_main_process
    from jaxgpt.training.loop import TrainingStopped
    from jaxgpt.training.run import resume_command
    from jaxgpt.training.trainer import default_folder

    folder = Path(resume) if resume else chosen.run or default_folder(name)
    by_hand = _value(flags, "--model.vocab-size", "how many tokens") is not None
    overrides: dict[str, Any] = {"model.vocab_size": chosen.settings.model.vocab_size} if by_hand else {}
    settings = _found_anywhere(chosen.settings)
    if chosen.dry_run:
        dry_run(settings, folder=folder, resume=resume is not None, **overrides)
        return 0
    try:
        with _orbax_hushed():
            train(settings, folder=folder, resume=resume is not None, **overrides)
    except TrainingStopped as stop:
        if is_main_process():
            sys.stdout.write(f"{stop}; go on with: {resume_command(folder)}\n")
        return 128 + stop.signal if stop.signal == signal.SIGINT else 0
    if is_main_process():
        sys.stdout.write(_next_commands(folder))
    return 0


def _next_commands(folder: Path) -> str:
    """What to do with a run; where training may stop for a validation loss that rises, with its best checkpoint."""
    from jaxgpt.training.run import read_run

    name = shlex.quote(str(folder))
    if read_run(folder).config.patience is None:
        return f'go on with: jaxgpt generate {name} --prompt "..."\n'
    commands = (f'generate {name} --prompt "..."', f"evaluate {name}", f"convert {name} {name}-hf")
    return "".join(f"go on with: jaxgpt {command} --step best\n" for command in commands)


def join_processes(flags: list[str]) -> None:
    """Find the other processes, where the flags say that there are any."""
    known = [flag for flag in flags if flag not in ("-h", "--help")]
    cluster = tyro.cli(Cluster, args=known, return_unknown_args=True)[0]
    if cluster.is_multiprocess:
        from jaxgpt.runtime.processes import connect

        connect(cluster)


def _value(flags: list[str], name: str, meaning: str) -> str | None:
    """The value of a flag that decides the defaults of others. Raises UserError where it is empty or given twice."""
    values = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{name}=")]
    for index, flag in enumerate(flags):
        if flag == name:
            values.append(flags[index + 1] if index + 1 < len(flags) else "")
    if any(not value.strip() for value in values):
        raise UserError(f"{name} needs a value: {meaning}")
    if len(values) > 1:
        raise UserError(f"{name} is given {len(values)} times, as {' and '.join(values)}: give one")
    return values[0] if values else None


def initial_config(preset: str | None, file: str | None, flags: list[str]) -> tuple[str, TrainConfig]:
    """The preset's name, and its settings: with --init of the weights it starts from, then with those of the file."""
    found = ConfigFile(None, {}) if file is None else read_config_file(Path(file))
    name = preset or found.preset or "quickstart"
    config = TrainConfig.preset(name)
    source = _value(flags, "--init", "the weights to start from") or found.fields.get("init")
    if isinstance(source, str):
        config = _of_source(config, source)
    try:
        return name, override(config, found.fields)
    except UserError as error:
        raise UserError(f"--config {file}: {error}") from None


def _of_source(config: TrainConfig, source: str) -> TrainConfig:
    """With the architecture of the weights at a source, and on the text of such a run."""
    from jaxgpt.launch import source_config
    from jaxgpt.training.run import is_run, read_run

    data = read_run(Path(source)).config.data if is_run(Path(source)) else config.data
    return dataclasses.replace(config, model=source_config(source), data=data, init=source)


def _resumed(folder: str) -> TrainConfig:
    from jaxgpt.training.run import read_run

    return read_run(Path(folder)).config


def _found_anywhere(config: TrainConfig) -> TrainConfig:
    """With the whole paths of what it reads, so that a run is resumed from any folder."""
    from jaxgpt.training.source import absolute, with_absolute_paths

    data = with_absolute_paths(config.data)
    sources: dict[str, Any] = {
        name: absolute(value) for name in ("init", "distill") if (value := getattr(config, name)) is not None
    }
    return dataclasses.replace(config, data=data, **sources)


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
    except UserError:
        time.sleep(1)  # for the writes that were under way beside the one that failed
        raise
    finally:
        sys.unraisablehook = usual
