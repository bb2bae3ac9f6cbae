"""`jaxgpt finetune`: a training run whose settings are made from the text, the model and the memory."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxgpt.commands import train
from jaxgpt.commands.flags import flags_of, refuse_foreign
from jaxgpt.commands.foreign_flags import FOREIGN
from jaxgpt.errors import UserError
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.training.config import DataConfig, TrainConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxgpt.data.tokens import TokenData

PROMPT_TOKENS = 12


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train a model further on a text.

    Batch, microbatches, steps, learning rate, warm-up and validations follow from the text, the model and the memory;
    each can be set by its flag. Training stops early where the loss on held-back text no longer falls. The run is
    resumed by `jaxgpt train --resume`.
    """

    settings: Annotated[TrainConfig, tyro.conf.arg(name="")]
    source: tyro.conf.Positional[str]
    """The model: a run folder, a Hugging Face folder or hub id, or a weights file."""
    epochs: float = 3.0
    """How many times the text is read, where --steps is not given."""
    run: Path | None = None
    """The folder to make for the run. None: runs/finetune-DATE-TIME."""
    dry_run: bool = False
    """Do everything up to the first step, print what a step and the run would cost, and keep nothing."""
    cluster: Annotated[Cluster, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Cluster)
    """Several processes."""


def main(arguments: list[str]) -> int:
    """Fine-tune a model; returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        return _main(arguments)
    from jaxgpt.runtime.output import lasting_output
    from jaxgpt.runtime.signals import command_signals

    train.keep_freed_memory()
    with lasting_output(), command_signals():
        return _main(arguments)


def _main(flags: list[str]) -> int:
    refuse_foreign(flags, flags_of(Arguments) | {"--help": 0}, FOREIGN)
    asked = Arguments(TrainConfig(data=DataConfig(source=None)), source=tyro.MISSING)
    source = next((flag for flag in flags[:1] if not flag.startswith("-")), None)
    if source is not None:
        train.join_processes(flags)
        asked = dataclasses.replace(asked, settings=_of_source(source))
    chosen = tyro.cli(Arguments, prog="jaxgpt finetune", args=flags, default=asked)
    if source is None:
        raise UserError(f"the model comes first: jaxgpt finetune {chosen.source} --data.source ...")
    if chosen.settings.data.source is None and not chosen.settings.data.mixture:
        raise UserError("the text to learn is not named: --data.source my.txt (or a .jsonl file, or a folder of texts)")
    if chosen.epochs <= 0:
        raise UserError(f"epochs={chosen.epochs} must be above 0")
    if chosen.run is None and chosen.cluster.is_multiprocess:
        raise UserError("several processes need one name for the run's folder: --run FOLDER")
    asked_for = train.Arguments(_settings(chosen, flags), run=chosen.run, dry_run=chosen.dry_run)
    return train.run_training(asked_for, None, "finetune", flags)


def _of_source(source: str) -> TrainConfig:
    """What does not depend on the text: the architecture, the dtype, and how often is validated and stopped."""
    import jax

    from jaxgpt.launch import source_config

    dtype: Literal["float32", "bfloat16"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    model = dataclasses.replace(source_config(source), dtype=dtype)
    optimizer = dataclasses.replace(TrainConfig().optimizer, weight_decay=0.01, beta2=0.999)
    data = DataConfig(source=None)
    return TrainConfig(model, data, optimizer=optimizer, init=source, eval_batches=40, patience=3)


def _settings(chosen: Arguments, flags: list[str]) -> TrainConfig:
    """All settings, told in a few lines."""
    from jaxgpt.launch import given_tokenizer
    from jaxgpt.runtime.processes import is_main_process
    from jaxgpt.training.finetune import Text, fit_settings
    from jaxgpt.training.source import open_config

    config = chosen.settings
    by_hand = {flag.partition("=")[0].removeprefix("--").replace("-", "_") for flag in flags if flag.startswith("--")}
    tokenizer = given_tokenizer(config)
    data = open_config(config.data, tokenizer)
    text, mesh = Text(*(data.manifest["splits"][name]["tokens"] for name in Text._fields)), config.mesh.make()
    config = fit_settings(config, text, epochs=chosen.epochs, memory=_memory(mesh), mesh=mesh, by_hand=by_hand)
    if "sample_prompt" not in by_hand:
        config = dataclasses.replace(config, sample_prompt=_prompt(data))
    if is_main_process():
        sys.stdout.write(_told(config, chosen.source, text) + "\n")
    return config


def _memory(mesh: "Mesh") -> int | None:
    """Bytes of each device; CPUs share the machine's."""
    from jaxgpt.runtime.host_memory import host_memory_limit
    from jaxgpt.training.memory import memory_limit

    return memory_limit(mesh) or host_memory_limit() // mesh.local_mesh.size


def _prompt(data: "TokenData") -> str | None:
    """The first words of the held-back text."""
    if data.tokenizer is None:
        return None
    ids = [int(token) for token in data.validation[: PROMPT_TOKENS + 1] if token != data.tokenizer.end_of_text]
    return data.tokenizer.decode(ids[:PROMPT_TOKENS]).strip("\ufffd \n") or None


def _told(config: TrainConfig, source: str, text: "tuple[int, int]") -> str:
    tokens, rate = config.batch_size * config.model.context_length, config.optimizer
    pieces = f" in {config.microbatches} microbatches" if config.microbatches > 1 else ""
    trained = "all weights" if config.lora is None else f"adapters of rank {config.lora}"
    lines = {
        "tune": f"{trained} of {source}; {_kept(config)}",
        "text": f"{text[0]:,} tokens are read {config.steps * tokens / text[0]:.1f} times: {config.steps:,} steps of "
        f"{config.batch_size} x {config.model.context_length:,} tokens{pieces}",
        "rate": f"{rate.learning_rate:g} after {rate.warmup_steps} steps, falling to {rate.final_learning_rate:g}",
        "stop": f"validation every {config.eval_every} steps"
        + (f"; {config.patience} in a row without a new best end the run" if config.patience else ""),
    }
    return "\n".join(f"{name:<7} {value}" for name, value in lines.items())


def _kept(config: TrainConfig) -> str:
    dtype = config.model.dtype
    if dtype == "float32":
        return "computed and kept in float32"
    frozen = "" if config.lora is None else f", what is not trained in {dtype}"
    return f"computed in {dtype}; what is trained is kept in float32{frozen}"
