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

from jaxgpt.errors import UserError
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.host_memory import keep_freed_memory
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The flags of `jaxgpt train`."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    run: Path | None = None
    """The folder to make for the run. None: runs/PRESET-DATE-TIME."""
    resume: Path | None = None
    """Go on with this run, from its newest checkpoint. Flags beside it change the run, such as --steps."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    """Several processes."""


def main(arguments: list[str]) -> int:
    """Train a preset, or resume a run, and write a sample; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        return _main(arguments)
    from jaxgpt.runtime.output import lasting_output
    from jaxgpt.runtime.signals import command_signals  # imports jax, for which --help does not wait

    keep_freed_memory()
    with lasting_output(), command_signals():
        return _main(arguments)


def _main(arguments: list[str]) -> int:
    flags = list(arguments)
    resume = _value(flags, "--resume", "the run folder to go on with")
    preset = _preset(flags)
    if resume and preset:
        raise UserError(f"--resume {resume} knows its preset; leave out {preset!r}")
    _join(flags)
    config = _resumed(resume) if resume else _begun(TrainConfig.preset(preset or "quickstart"), flags)
    chosen = tyro.cli(
        Arguments, prog="jaxgpt train [PRESET]", description=_description(), args=flags, default=Arguments(config)
    )
    if resume and chosen.run is not None:
        raise UserError(f"--resume {resume} already names the run folder; leave out --run {chosen.run}")
    if not resume and chosen.run is None and chosen.cluster.is_multiprocess:
        raise UserError("several processes need one name for the run's folder: --run FOLDER")
    return _train(chosen, resume, preset or "quickstart", flags)


def _train(chosen: Arguments, resume: str | None, preset: str, flags: list[str]) -> int:
    from jaxgpt.launch import train
    from jaxgpt.runtime.processes import is_main_process
    from jaxgpt.training.loop import TrainingStopped
    from jaxgpt.training.run import resume_command
    from jaxgpt.training.trainer import default_folder

    folder = Path(resume) if resume else chosen.run or default_folder(preset)
    by_hand = _value(flags, "--model.vocab-size", "how many tokens") is not None
    overrides: dict[str, Any] = {"model.vocab_size": chosen.config.model.vocab_size} if by_hand else {}
    try:
        with _orbax_hushed():
            train(_found_anywhere(chosen.config), folder=folder, resume=resume is not None, **overrides)
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


def _join(flags: list[str]) -> None:
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


def _preset(flags: list[str]) -> str | None:
    """The preset, which is taken out of the flags: the first word, or a preset's name that is no flag's value."""
    for index, word in enumerate(flags):
        is_value = index > 0 and flags[index - 1].startswith("-") and "=" not in flags[index - 1]
        if not word.startswith("-") and (index == 0 or (word in PRESETS and not is_value)):
            return flags.pop(index)
    return None


def _begun(config: TrainConfig, flags: list[str]) -> TrainConfig:
    """The preset; with --init, of the architecture of the weights it starts from, and on the text of such a run."""
    source = _value(flags, "--init", "the weights to start from")
    if source is None:
        return config
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


def _description() -> str:
    presets = "\n\n".join(
        f"{name}: {preset.purpose} ({preset.config.model.num_layers} layers, width {preset.config.model.d_model})"
        for name, preset in PRESETS.items()
    )
    return f"Train a GPT. Without arguments: the quickstart preset.\n\nPRESETS\n\n{presets}"


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
