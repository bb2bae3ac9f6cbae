"""The folder of a run: what it is, so that its name is all there is to remember."""

import contextlib
import dataclasses
import json
import os
import platform
import shlex
import shutil
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgpt.data import TokenData, Tokenizer, from_spec
from jaxgpt.data import open_data as open_source
from jaxgpt.data.sources import changed_files, file_hashes
from jaxgpt.errors import UserError
from jaxgpt.training import lock
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.config import TrainConfig

FORMAT = 1
PACKAGES = ("jaxgpt", "jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint")
LARGEST_CONFIG = 50_000_000
"""Bytes of a config.json that is read: that of a run holds its tokenizer."""

MAY_CHANGE = ("dropout", "dtype", "attention", "scan_layers")
"""Fields of the model that may change within a run: no parameter depends on them."""
MUST_STAY = ("model", "data", "seed", "batch_size", "init", "distill", "lora", "lora_alpha")
"""Fields of the config that may not: another would have been trained from the start."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder: config.json, metrics.jsonl, TensorBoard events, checkpoints/STEP, samples/, loss.png, README.txt.

    Example:
        >>> import tempfile, jaxgpt
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = jaxgpt.train("tiny", data=list(range(20)) * 40, folder=f"{folder}/run", steps=1, quiet=True)
        ...     sorted(path.name for path in (result.run.folder / "checkpoints").iterdir())
        ['1']
    """

    folder: Path
    config: TrainConfig
    given_tokenizer: Tokenizer | None
    source_hash: str
    """Of the text or the token ids, so that a resumed run reads the same."""
    id: str | None = None
    """Written into each checkpoint; runs of version 0.1 have none."""
    data_files: dict[str, str] = dataclasses.field(default_factory=dict)
    """The hash of each file that the data came from, so that one that changed can be named."""
    from_python: dict[str, str] = dataclasses.field(default_factory=dict)
    """What jaxgpt.train was called with that no config can hold: data, loss, optimizer, by their names."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises UserError where the run was trained on token ids."""
        if self.given_tokenizer is None:
            raise UserError(f"{self.folder} was trained on token ids from Python, and has no tokenizer")
        return self.given_tokenizer

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def open_checkpoints(self) -> Checkpoints:
        """The checkpoints, kept as the config says."""
        config = self.config
        keep = config.keep_checkpoints, config.keep_every
        return Checkpoints(self.checkpoints, *keep, run_id=self.id, lora=config.lora is not None)

    def data(self) -> TokenData:
        """The run's tokens. Raises UserError where the text is no longer the one the run began with."""
        if "data" in self.from_python:
            raise UserError(
                f"the data of {self.folder} were given from Python ({self.from_python['data']}): give them again, by "
                "jaxgpt.train(folder=..., resume=True, data=...), or name a text by --data"
            )
        named = self.config.data
        data = open_source(named.source or "", self.tokenizer, mixture=named.mixture, val_source=named.val_source)
        self.check_data(data)
        return data

    def check_data(self, data: TokenData) -> None:
        """Raise UserError where data are not those that the run began with."""
        if data.manifest["source_hash"] != self.source_hash:
            files = changed_files(self.data_files, file_hashes(data.manifest)) if self.data_files else []
            which = f" ({', '.join(files[:5])}{' and others' * (len(files) > 5)})" if files else ""
            raise UserError(
                f"{data.manifest['source']!r} has changed since {self.folder} began{which}; "
                "restore it, or start a new run"
            )


def is_run(folder: Path) -> bool:
    """Whether a folder is one of ours."""
    try:
        return isinstance(record := _read_record(folder), dict) and "jaxgpt_run" in record
    except (OSError, ValueError):
        return False


def _read_record(folder: Path) -> Any:
    """What config.json holds. Raises ValueError where it is no file of a run's size, or not JSON."""
    path = folder / "config.json"
    if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
        raise ValueError("not a config.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deep") from None


def check_is_new(folder: Path) -> None:
    """Raise UserError where a folder holds anything already, or cannot hold a run.

    What a run leaves that was killed while its folder was made does not count.
    """
    check_path(folder)
    if not os.path.exists(folder) or (folder.is_dir() and not _holds_anything(folder)):  # False of a name too long
        return
    cure = f"go on with it by `{resume_command(folder)}`" if is_run(folder) else "name another folder"
    raise UserError(f"--run {folder} is not empty; {cure}")


def _holds_anything(folder: Path) -> bool:
    """Beside the lock and what `create_run` makes before config.json, which it writes last."""
    steps = {"checkpoints"} if all(_is_start(path) for path in folder.glob("checkpoints/*")) else set()
    empty = {"samples"} if not any(folder.glob("samples/*")) else set()
    return any(path.name not in {lock.NAME, "config.json.part"} | steps | empty for path in folder.iterdir())


def _is_start(path: Path) -> bool:
    return path.name == "0" or path.name.startswith("0.orbax-checkpoint-tmp")


def check_path(folder: Path) -> None:
    r"""Raise UserError where orbax would lose checkpoints: it takes these characters for patterns, and \ for /."""
    if found := set("*?[]\\") & set(str(folder.absolute())):
        raise UserError(
            f"checkpoints cannot be saved in {folder.absolute()}: its path holds {' and '.join(sorted(found))}; "
            "choose another folder for --run, or rename it"
        )


def resume_command(folder: Path) -> str:
    """What to type to go on with a run."""
    return f"jaxgpt train --resume {shlex.quote(str(folder))}"


def new_run(folder: Path, config: TrainConfig, data: TokenData, from_python: dict[str, str] | None = None) -> Run:
    """A run that is not on disk yet. Raises UserError where the folder holds anything, or the vocabularies differ."""
    check_vocabulary(config, data.tokenizer)
    check_is_new(folder)
    return Run(
        folder,
        config,
        data.tokenizer,
        data.manifest["source_hash"],
        _new_id(),
        file_hashes(data.manifest),
        from_python or {},
    )


def _new_id() -> str:
    """A number that no other run has, the same in all processes."""
    drawn = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    if jax.process_count() > 1:
        drawn = np.asarray(multihost_utils.broadcast_one_to_all(drawn))
    return drawn.astype(np.uint8).tobytes().hex()


def create_folder(run: Run) -> None:
    """Make the folder, without its config.json; what a killed creation left is deleted."""
    with refused_by_the_disk(run.folder):
        (run.folder / "samples").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def create_run(folder: Path, config: TrainConfig, data: TokenData) -> Run:
    """A new run folder. Raises UserError as `new_run` does."""
    run = new_run(folder, config, data)
    create_folder(run)
    write_config(run)
    return run


def package_versions() -> dict[str, str]:
    """Of Python and of the packages that decide a run's numbers."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write_config(run: Run) -> None:
    """Write config.json whole or not at all."""
    record = {
        "jaxgpt_run": FORMAT,
        "id": run.id,
        "config": run.config.to_dict(),
        "from_python": run.from_python,
        "tokenizer": None if run.given_tokenizer is None else run.given_tokenizer.spec(),
        "source_hash": run.source_hash,
        "data_files": run.data_files,
        "versions": package_versions(),
    }
    draft = run.folder / "config.json.part"
    try:
        with refused_by_the_disk(run.folder):
            draft.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(run.folder / "config.json")
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def refused_by_the_disk(folder: Path) -> Iterator[None]:
    """Within, a file that cannot be written, such as on a full disk, raises a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the run folder {folder} cannot be written ({error.strerror or error}): make room, or name another folder"
        ) from None


def read_run(folder: Path) -> Run:
    """An existing run. Raises UserError where the folder is not one, or its config is not one this version knows."""
    if not is_run(folder):
        raise UserError(
            f"{folder} is not a run folder: it has no config.json written by `jaxgpt train`; "
            + (_meant(folder) or "name the folder that --run created (by default runs/PRESET-DATE-TIME)")
        )
    record: dict[str, Any] = _read_record(folder)
    if record["jaxgpt_run"] != FORMAT:
        raise UserError(f"{folder} has format {record['jaxgpt_run']!r}, and this version reads format {FORMAT}")
    try:
        source_hash, spec = record["source_hash"], record["tokenizer"]
        from_python = {**record.get("from_python", {})}
        tokenizer = None if spec is None and "data" in from_python else from_spec(spec)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/config.json is not whole ({error}); restore it from a copy") from error
    config = TrainConfig.from_dict(record.get("config", {}))
    check_vocabulary(config, tokenizer)
    return Run(folder, config, tokenizer, source_hash, record.get("id"), record.get("data_files", {}), from_python)


def _meant(folder: Path) -> str | None:
    """Which folder was likely meant instead: the one above, or the newest one below."""
    for above in folder.absolute().parents[:2]:
        if is_run(above):
            return f"did you mean {above}?"
    below = (
        [path.parent for path in folder.glob("*/config.json") if is_run(path.parent)] if os.path.isdir(folder) else []
    )
    newest = max(below, key=lambda path: (path / "config.json").stat().st_mtime, default=None)
    return None if newest is None else f"did you mean {newest}, the newest of {len(below)} runs in it?"


def reconfigured(run: Run, config: TrainConfig, from_python: dict[str, str] | None = None) -> Run:
    """The run with another config, its folder unchanged. Raises UserError where what must stay has changed."""
    check_path(run.folder)
    _check_from_python(run, from_python or {})
    before, now = (_must_stay(each) for each in (run.config, config))
    changed = [f"{name}={before[name]!r}, not {now[name]!r}" for name in before if before[name] != now[name]]
    if changed:
        raise UserError(
            f"{run.folder} is a run with {' and '.join(changed)}: this cannot change within a run; "
            "leave the flag out, or start a new run"
        )
    return dataclasses.replace(run, config=config)


def _check_from_python(run: Run, given: dict[str, str]) -> None:
    """Raise UserError where a run began with a loss, optimizer or data from Python and goes on without, or reversed."""
    for name in ("loss", "optimizer", "data"):
        before, now = run.from_python.get(name), given.get(name)
        if (before is None) != (now is None):
            began, goes = (f"{name}={value}" if value else f"the config's {name}" for value in (before, now))
            raise UserError(
                f"{run.folder} began with {began}, and would go on with {goes}: "
                f"resume it by jaxgpt.train(folder=..., resume=True, {name}=...) as it began"
            )


def _must_stay(config: TrainConfig) -> dict[str, Any]:
    """What makes a run this run, by dotted names as in the flags."""
    fields = {name: value for name, value in config.to_dict().items() if name in MUST_STAY}
    flat: dict[str, Any] = {}
    free = _free(config)
    for name, value in fields.items():
        nested = value.items() if isinstance(value, dict) else ()
        flat |= {f"{name}.{part}": inner for part, inner in nested if (name, part) not in free} or {name: value}
    return flat


def _free(config: TrainConfig) -> set[tuple[str, str]]:
    """Kernels that adapters belong to are kept in the dtype of computation, which then may not change."""
    return {("model", name) for name in MAY_CHANGE if name != "dtype" or config.lora is None}


def check_vocabulary(config: TrainConfig, tokenizer: Tokenizer | None) -> None:
    """Raise UserError where model and tokenizer count tokens differently."""
    if tokenizer is not None and config.model.vocab_size != tokenizer.vocab_size:
        raise UserError(
            f"the {tokenizer.name} tokenizer of {config.data.source!r} has {tokenizer.vocab_size} tokens and the model "
            f"{config.model.vocab_size}; use --model.vocab-size {tokenizer.vocab_size}, or another --data.tokenizer"
        )
