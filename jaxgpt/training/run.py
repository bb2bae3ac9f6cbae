"""The folder of a run: what it is, so that its name is all there is to remember."""

import dataclasses
import json
import platform
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxgpt.data import TokenData, Tokenizer, from_spec, prepare
from jaxgpt.training.config import TrainConfig

FORMAT = 1
PACKAGES = ("jaxgpt", "jax", "flax", "optax", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder: config.json, metrics.jsonl, TensorBoard events, checkpoints/STEP, samples/."""

    folder: Path
    config: TrainConfig
    tokenizer: Tokenizer
    source_hash: str
    """Of the text, so that a resumed run reads the same."""

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def data(self) -> TokenData:
        """The run's tokens. Raises ValueError where the text is no longer the one the run began with."""
        data = prepare(self.config.data.source, self.tokenizer)
        if data.manifest["source_hash"] != self.source_hash:
            raise ValueError(
                f"{self.config.data.source!r} has changed since {self.folder} began; "
                "restore the text, or start a new run"
            )
        return data


def is_run(folder: Path) -> bool:
    """Whether a folder is one of ours."""
    try:
        return "jaxgpt_run" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def check_is_new(folder: Path) -> None:
    """Raise ValueError where a folder holds anything already, or cannot hold a run."""
    check_path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        cure = f"go on with it by `{resume_command(folder)}`" if is_run(folder) else "name another folder"
        raise ValueError(f"--run {folder} is not empty; {cure}")


def check_path(folder: Path) -> None:
    """Raise ValueError where orbax would lose checkpoints: it takes these characters for patterns."""
    if found := set("*?[]") & set(str(folder.absolute())):
        raise ValueError(
            f"checkpoints cannot be saved in {folder.absolute()}: its path holds {' and '.join(sorted(found))}; "
            "choose another folder for --run, or rename it"
        )


def resume_command(folder: Path) -> str:
    """What to type to go on with a run."""
    return f"jaxgpt train --resume {shlex.quote(str(folder))}"


def create_run(folder: Path, config: TrainConfig, data: TokenData) -> Run:
    """A new run folder. Raises ValueError where the folder holds anything, or the tokenizer and model do not match."""
    check_vocabulary(config, data.tokenizer)
    check_is_new(folder)
    run = Run(folder, config, data.tokenizer, data.manifest["source_hash"])
    (folder / "samples").mkdir(parents=True)
    write_config(run)
    return run


def write_config(run: Run) -> None:
    """Write config.json whole or not at all."""
    record = {
        "jaxgpt_run": FORMAT,
        "config": run.config.to_dict(),
        "tokenizer": run.tokenizer.spec(),
        "source_hash": run.source_hash,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
    draft = run.folder / "config.json.part"
    draft.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    draft.replace(run.folder / "config.json")


def read_run(folder: Path) -> Run:
    """An existing run. Raises ValueError where the folder is not one, or its config is not one this version knows."""
    if not is_run(folder):
        raise ValueError(
            f"{folder} is not a run folder: it has no config.json written by `jaxgpt train`; "
            "name the folder that --run created (by default runs/PRESET-DATE-TIME)"
        )
    record: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if record["jaxgpt_run"] != FORMAT:
        raise ValueError(f"{folder} has format {record['jaxgpt_run']}, and this version reads format {FORMAT}")
    try:
        tokenizer, source_hash = from_spec(record["tokenizer"]), record["source_hash"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}/config.json is not whole ({error} is missing); restore it from a copy") from error
    config = TrainConfig.from_dict(record.get("config", {}))
    check_vocabulary(config, tokenizer)
    return Run(folder, config, tokenizer, source_hash)


def reconfigured(run: Run, config: TrainConfig) -> Run:
    """The run with another config, its folder unchanged. Raises ValueError where what must stay has changed."""
    check_path(run.folder)
    for name in ("model", "data", "seed", "batch_size", "init", "distill"):
        before, now = getattr(run.config, name), getattr(config, name)
        if before != now:
            raise ValueError(
                f"{run.folder} is a run with {name}={before}, not {now}: this cannot change within a run; "
                "leave the flag out, or start a new run"
            )
    return dataclasses.replace(run, config=config)


def check_vocabulary(config: TrainConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError where model and tokenizer count tokens differently."""
    if config.model.vocab_size != tokenizer.vocab_size:
        raise ValueError(
            f"the {tokenizer.name} tokenizer of {config.data.source!r} has {tokenizer.vocab_size} tokens and the model "
            f"{config.model.vocab_size}; use --model.vocab-size {tokenizer.vocab_size}, or another --data.tokenizer"
        )
