"""`jaxgpt.train`: a whole training run by one call. The command `jaxgpt train` is a caller of it."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.override import field_name, override

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxgpt.config import GPTConfig
    from jaxgpt.data import Tokenizer
    from jaxgpt.model.gpt import GPT
    from jaxgpt.training.loop import Callback
    from jaxgpt.training.run import Run
    from jaxgpt.training.source import Data
    from jaxgpt.training.state import Optimizer, TrainState
    from jaxgpt.training.step import Loss
    from jaxgpt.training.trainer import Trainer


JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
)


class TrainResult(NamedTuple):
    """What a run came to.

    Example:
        >>> import tempfile, jaxgpt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = jaxgpt.train("tiny", data=list(range(20)) * 40, folder=f"{folder}/run", steps=2, quiet=True)
        >>> [line["step"] for line in result.history]
        [0, 1, 2]
    """

    model: "GPT"
    """Sharded over the run's mesh."""
    run: "Run"
    history: list[dict[str, Any]]
    """The lines of metrics.jsonl; a number that is not finite is None."""


def train(
    config: TrainConfig | str | None = None,
    *,
    data: "Data | None" = None,
    model: "GPT | None" = None,
    folder: str | Path | None = None,
    optimizer: "Optimizer | None" = None,
    loss: "Loss | None" = None,
    callbacks: "Sequence[Callback]" = (),
    mesh: "Mesh | None" = None,
    resume: bool = False,
    quiet: bool = False,
    **overrides: Any,
) -> TrainResult:
    """Train a GPT, or go on with a run.

    Args:
        config: A preset's name or a TrainConfig. None: the quickstart preset; with `resume`, the run's own.
        data: A text's name or path, token ids [N] (the last tenth is validation), or a TokenData.
        model: Start from these weights, which stay yours. A preset takes their architecture.
        folder: The run folder to make, by default runs/NAME-DATE-TIME; with `resume`, the one to go on with.
        optimizer: Any optax transformation, in place of `config.optimizer` and its schedule. It gets the gradient as
            it is: clip in it. Its state is sharded and saved.
        loss: loss(model, tokens int32[B, T+1], key) -> a scalar, or a scalar and a dict of scalars, which are reported.
        callbacks: Each is called as callback(step, metrics, state, trainer) on the main process, with every line of
            metrics, and may return "stop" or "save". The state is only valid until it returns.
        mesh: The devices; by default made by `config.mesh`.
        resume: Go on after the newest checkpoint in `folder`.
        quiet: Print nothing, write no sample.
        overrides: Fields of the config by name: steps=100, learning_rate=1e-3, model__window=256 (or "model.window").

    Raises UserError where something does not fit, TrainingStopped where a signal stopped the run, which is saved.

    Example:
        >>> import tempfile, jaxgpt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = jaxgpt.train("tiny", data=list(range(20)) * 40, folder=f"{folder}/run", steps=8, quiet=True)
        >>> result.history[-1]["loss"] < result.history[1]["loss"]
        True
    """
    from jaxgpt.runtime.processes import is_main_process
    from jaxgpt.training.display import busy

    name = config if isinstance(config, str) else "quickstart" if config is None and not resume else "run"
    config = override(_architecture(_config(config, folder, resume), name, model), overrides)
    if config.lora is not None and config.init is None and model is None and not resume:
        raise UserError("lora trains adapters of weights that are there: name them by --init, or model= in Python")
    by_hand = model is not None or _is_vocabulary_given(overrides)
    given: dict[str, Any] = {"data": data, "optimizer": optimizer, "loss": loss, "mesh": mesh}
    console = _console(quiet=quiet or not is_main_process())  # only one process speaks
    with busy(console, "reading the text"):
        trainer = _trainer(config, folder, resume, vocabulary_by_hand=by_hand, **given)
    trainer.name = name
    if model is not None:
        trainer.from_python["model"] = "a model"
    with trainer:
        return _run(trainer, _weights(trainer, model), resume, callbacks, console, quiet)


def dry_run(config: TrainConfig, *, folder: str | Path, resume: bool = False, **overrides: Any) -> None:
    """Do what `train` does before its first step, and print what that step and the run would cost. Keeps nothing.

    Raises UserError where `train` would.
    """
    from jaxgpt.runtime.processes import is_main_process
    from jaxgpt.training.dry_run import measure, print_cost
    from jaxgpt.training.header import print_header

    config = override(config, overrides)
    console = _console(quiet=not is_main_process())
    with _trainer(config, folder, resume, vocabulary_by_hand=_is_vocabulary_given(overrides)) as trainer:
        print_header(trainer, console)
        print_cost(trainer, measure(trainer, console, _weights(trainer, None)), console)


def _is_vocabulary_given(overrides: dict[str, Any]) -> bool:
    return any(field_name(name) == "model.vocab_size" for name in overrides)


def _trainer(config: TrainConfig, folder: str | Path | None, resume: bool, **given: Any) -> "Trainer":
    """The trainer of a config, with what the config names: a teacher, a source's tokenizer."""
    from jaxgpt.runtime.processes import check_agreement
    from jaxgpt.training.trainer import Trainer

    check_agreement({"resume": resume, "run": str(folder), "config": config.to_dict(), **_what_decides_numbers()})
    check_agreement({"weights": _fingerprints(config, resume)})
    teacher, tokenizer = _teacher(config, given.get("mesh")), given_tokenizer(config, folder if resume else None)
    return Trainer(config, folder=folder, teacher=teacher, tokenizer=tokenizer, **given)


def _console(*, quiet: bool) -> Console:
    """Prints what it is given: paths and samples may hold what rich would read as markup."""
    return Console(highlight=False, markup=False, emoji=False, quiet=quiet)


def _what_decides_numbers() -> dict[str, Any]:
    """Versions, and settings of JAX, by which processes may compute differently under the same config."""
    import jax

    from jaxgpt.training.run import package_versions

    return {"versions": package_versions(), "jax": {name: jax.config.values.get(name) for name in JAX_SETTINGS}}


def _fingerprints(config: TrainConfig, resume: bool) -> dict[str, str]:
    """Of the models that each of several processes reads from its own disk, which may hold others of the same name."""
    from jaxgpt.runtime.processes import is_multiprocess

    sources = {"distill": config.distill} | ({} if resume else {"init": config.init})
    if not is_multiprocess():
        return {}
    from jaxgpt.loading import fingerprint

    return {name: fingerprint(source) for name, source in sources.items() if source is not None}


def _config(config: TrainConfig | str | None, folder: str | Path | None, resume: bool) -> TrainConfig:
    """The config that was asked for. Raises UserError where `resume` has nothing to go on with."""
    from jaxgpt.training.run import read_run

    if not resume:
        return TrainConfig.preset(config or "quickstart") if config is None or isinstance(config, str) else config
    if folder is None or not str(folder).strip():
        raise UserError("resume needs the run to go on with: folder=...")
    if isinstance(config, str):
        raise UserError(f"a run to resume knows its preset; leave out {config!r}")
    run = read_run(Path(folder))
    return run.config if config is None else config


def _architecture(config: TrainConfig, name: str, model: "GPT | None") -> TrainConfig:
    """With the model's own architecture, unless the config asks for another; `take` fits the weights to that."""
    if model is None or (name == "run" and config.model != TrainConfig().model):
        return config
    return dataclasses.replace(config, model=model.config)


def _teacher(config: TrainConfig, mesh: "Mesh | None") -> "GPT | None":
    """The model to learn from, read straight onto its shards. Raises UserError where it counts tokens differently."""
    if config.distill is None:
        return None
    from jaxgpt.loading import load

    check_teacher(source_config(config.distill), config)
    return load(config.distill, mesh=config.mesh.make() if mesh is None else mesh, dtype=config.model.dtype)


def check_teacher(teacher: "GPTConfig", config: TrainConfig) -> None:
    """Raise UserError where nothing can be learned from a model: it counts tokens differently, or reads fewer."""
    if teacher.vocab_size != config.model.vocab_size:
        raise UserError(
            f"--distill {config.distill} has {teacher.vocab_size} tokens and the model "
            f"{config.model.vocab_size}; distillation needs the same vocabulary"
        )
    teacher.check_length(config.model.context_length)


def given_tokenizer(config: TrainConfig, resumed: str | Path | None = None) -> "Tokenizer | None":
    """The tokenizer of the run that is resumed, or of the weights it starts from. None: the config's."""
    from jaxgpt.data.tokenizer_files import read_tokenizer
    from jaxgpt.training.run import is_run, read_run

    if resumed is not None:
        return read_run(Path(resumed)).given_tokenizer
    if config.init is None:
        return None
    from converters.hub import local_path
    from jaxgpt.loading import load_tokenizer

    named = config.data.tokenizer == "char"
    if named and not is_run(Path(config.init)) and read_tokenizer(local_path(config.init)) is None:
        sys.stderr.write(f"{config.init} has no tokenizer; the text is read by its characters, as the config says\n")
        return None
    return load_tokenizer(config.init)


def source_config(source: str) -> "GPTConfig":
    """The architecture of the model at a source, without its weights."""
    from jaxgpt.training.run import is_run, read_run

    if is_run(Path(source)):
        return read_run(Path(source)).config.model
    from converters.hub import local_path
    from converters.load import open_source

    return open_source(local_path(source)).config


def _weights(trainer: "Trainer", model: "GPT | None") -> "Callable[[], TrainState] | None":
    """What makes the first state of given weights, fitted to the config: read straight onto their shards, which become
    the state's own. No copy of them is kept beside it.
    """
    config = trainer.config
    if model is not None:
        return lambda: trainer.init(_adapted(model, config.model))
    if config.init is None:
        return None
    from jaxgpt.loading import load

    init = config.init
    return lambda: trainer.take(_adapted(load(init, mesh=trainer.mesh), config.model))


def _adapted(model: "GPT", config: "GPTConfig") -> "GPT":
    from jaxgpt.loading import adapt_weights

    return model if model.config == config else adapt_weights(model, config)


def _run(
    trainer: "Trainer",
    weights: "Callable[[], TrainState] | None",
    resume: bool,
    callbacks: "Sequence[Callback]",
    console: Console,
    quiet: bool,
) -> TrainResult:
    """Make or open the folder, train, and write a sample."""
    from jaxgpt.runtime import watchdog
    from jaxgpt.runtime.processes import check_agreement
    from jaxgpt.runtime.signals import set_resume_command
    from jaxgpt.training.display import busy
    from jaxgpt.training.early_stop import EarlyStop
    from jaxgpt.training.header import print_header
    from jaxgpt.training.loop import run_to_end
    from jaxgpt.training.loss_curve import show_losses
    from jaxgpt.training.metrics_file import read_metrics
    from jaxgpt.training.run import check_is_new, resume_command
    from jaxgpt.training.sample import write_sample
    from jaxgpt.training.start import start
    from jaxgpt.training.state import merged

    if trainer.folder is not None and not resume:
        check_is_new(trainer.folder)
    devices = [int(device.id) for device in trainer.mesh.devices.flat]
    check_agreement({"data": trainer.data.manifest["source_hash"], "devices": devices})
    newest = trainer.checkpoints.latest if resume else None
    check_agreement({"folder": str(trainer.run.folder), "newest checkpoint": newest})
    is_new = not resume and weights is not None
    run = trainer.create(weights) if is_new else trainer.create()
    print_header(trainer, console)
    began = time.perf_counter()
    set_resume_command(resume_command(run.folder))
    watchdog.start()
    watchdog.set_cure(f"whole checkpoints are kept, start all processes again with {resume_command(run.folder)}")
    with busy(console, "compiling"):
        state, before = start(trainer, console, weights)
    config = trainer.config
    samples = config.sample_tokens and not quiet and run.given_tokenizer is not None
    if samples and before is not None and weights is not None and config.sample_prompt is not None:
        write_sample(run, merged(state.model, trainer.mesh), console, "before training", 0)
    if config.patience is not None:
        callbacks = [*callbacks, EarlyStop(config.patience, console)]
    try:
        state = run_to_end(trainer, state, console, callbacks, before)
    finally:
        show_losses(run.folder, console)
    console.print(f"done in {time.perf_counter() - began:.0f} s")
    model = merged(state.model, trainer.mesh)
    if samples:
        shown, step = _best(trainer, model, int(state.step))
        write_sample(run, shown, console, "sample" if shown is model else f"sample of step {step}, the best", step)
    return TrainResult(model, run, read_metrics(run.folder))


def _best(trainer: "Trainer", model: "GPT", step: int) -> "tuple[GPT, int]":
    """The model to show, and its step: the last, or the best where training may stop for a loss that rises."""
    best = trainer.checkpoints.best
    if trainer.config.patience is None or best is None or best == step:
        return model, step
    return trainer.checkpoints.load_model(trainer.config, best, trainer.mesh), best
