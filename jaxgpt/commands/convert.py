"""`jaxgpt convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from converters.arguments import Convert
from jaxgpt.commands.output import say
from jaxgpt.commands.sources import read_text
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def main(arguments: list[str]) -> int:
    """Write a model in the format of another library; returns the exit code."""
    chosen = tyro.cli(Annotated[Convert, tyro.conf.PositionalRequiredArgs], prog="jaxgpt convert", args=arguments)
    if chosen.architecture == "peft":
        return _write_adapter(chosen)
    from converters.commands import convert
    from jaxgpt.loading import load, load_tokenizer, write_source_tokenizer

    def read_tokens(text: Path) -> "np.ndarray":
        return load_tokenizer(chosen.source).encode(read_text(str(text), text))

    convert(chosen, load=load, read_tokens=read_tokens, write_tokenizer=write_source_tokenizer)
    return 0


def _write_adapter(chosen: Convert) -> int:
    """The adapters of a run, for the model that it started from."""
    from converters.hub import local_path
    from converters.peft import save_adapter
    from converters.sources import read_source
    from jaxgpt.training.checkpoint import Checkpoints
    from jaxgpt.training.run import is_run, read_run

    run = read_run(Path(chosen.source)) if is_run(Path(chosen.source)) else None
    if run is None or run.config.lora is None or run.config.init is None:
        raise UserError(f"{chosen.source} is no run with adapters: train one by jaxgpt finetune ... --lora 16")
    base = read_source(local_path(run.config.init))
    if differing := _differences(base.config, run.config.model):
        raise UserError(f"{run.config.init} has another {differing} than {chosen.source}: convert without peft merges")
    with Checkpoints(run.checkpoints) as checkpoints:
        model = checkpoints.restore_model(run.config, checkpoints.find(chosen.step), merge=False)
    save_adapter(model, chosen.folder, run.config.init, base.architecture.name)
    say(f"{chosen.folder} holds adapters of {run.config.init}, which PEFT opens")
    return 0


def _differences(base: GPTConfig, trained: GPTConfig) -> str:
    """The fields by which a model's weights are not those of its base."""
    free = ("dropout", "dtype", "attention", "scan_layers", "context_length")
    before, after = base.to_dict(), trained.to_dict()
    return " and ".join(name for name in before if name not in free and before[name] != after[name])
