"""`jaxgpt data prepare`, `jaxgpt data join`, `jaxgpt data info`, `jaxgpt data tokenizer`."""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxgpt.errors import UserError
from jaxgpt.runtime.host_memory import lower_mmap_threshold

if TYPE_CHECKING:
    from jaxgpt.data.preparation.inputs import Input
    from jaxgpt.data.tokenizer import Tokenizer

SMALL = 4_000_000
"""Bytes of input below which starting processes takes longer than the work."""


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Turn text of any size into token shards to train on.

    Shards are in llm.c's format, with <|endoftext|> before each document, and manifest.json beside them. A preparation
    that was stopped goes on when it is started again; the result depends neither on that nor on --workers.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """INPUT... FOLDER. An input is a text, .jsonl or .parquet file, also with .gz, .zst, .bz2 or .xz, a folder or
    pattern of them, hf://datasets/OWNER/NAME[/CONFIG], or - for standard input. FOLDER is made."""
    tokenizer: str = "gpt2"
    """gpt2, or a source whose tokenizer it is: a folder with tokenizer.json, a run, or a hub id."""
    text_field: str = "text"
    """The field of a JSON line, or column of a parquet file, that holds the text."""
    suffix: tuple[str, ...] = ()
    """More suffixes of text files, such as .rst; .txt, .md and .py are read anyway."""
    stdin_format: Literal["jsonl", "text"] = "jsonl"
    """What standard input is: a JSON object a line, or one text."""
    validation: str = "0.005"
    """A fraction: so many documents are held back, chosen by their hashes, so that files added later move none. Or a
    file or folder whose documents are the validation. Or a split of the data set, such as test."""
    val_tokens: int | None = None
    """Hold back the first so many tokens instead, as llm.c does."""
    shard_tokens: int = 10**8
    """Tokens of a shard."""
    workers: int | None = None
    """Processes that tokenise. None: one for each core."""
    errors: Literal["strict", "replace", "skip"] = "strict"
    """What cannot be read. strict: stop and name it. replace: put U+FFFD for bytes that are not UTF-8. skip: leave such
    documents out and count them."""
    part: str | None = None
    """I/N, I from 0: prepare one of N shares of the files, into FOLDER/part-I-of-N; then `jaxgpt data join FOLDER`."""


@dataclasses.dataclass(frozen=True)
class Join:
    """Make one folder of token shards of the parts that `prepare --part I/N` has made in it."""

    folder: tyro.conf.Positional[Path]
    """The folder that holds the parts."""


@dataclasses.dataclass(frozen=True)
class Info:
    """What a folder of token shards holds."""

    folder: tyro.conf.Positional[Path]
    """A folder that `jaxgpt data prepare` has made."""
    verify: bool = False
    """Read all shards and compare their hashes with the manifest."""
    documents: int = 3
    """Random documents whose first lines are shown."""
    seed: int = 0
    """Which documents."""


@dataclasses.dataclass(frozen=True)
class TrainTokenizer:
    """Train a byte-level BPE, as GPT-2's, on text of your own.

    `jaxgpt train PRESET --data.tokenizer FOLDER --model.vocab-size N` uses it, and so does `data prepare --tokenizer`.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """INPUT... FOLDER, as for `data prepare`. FOLDER is made; transformers' AutoTokenizer opens it too."""
    vocab_size: int = 4096
    """How many tokens: 256 bytes, <|endoftext|>, and the pairs that occur most often."""
    text_field: str = "text"
    """The field of a JSON line, or column of a parquet file, that holds the text."""
    suffix: tuple[str, ...] = ()
    """More suffixes of text files, such as .rst; .txt, .md and .py are read anyway."""


COMMANDS: dict[str, type] = {"prepare": Prepare, "join": Join, "info": Info, "tokenizer": TrainTokenizer}


def main(arguments: list[str]) -> int:
    """Run a subcommand; returns the exit code."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help"):
        purposes = [f"  {command:<10} {(made.__doc__ or '').splitlines()[0]}" for command, made in COMMANDS.items()]
        print("\n".join(["usage: jaxgpt data COMMAND [...]", "", *purposes]))  # noqa: T201
        return 0
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1) or list(COMMANDS)
        raise UserError(f"there is no command `jaxgpt data {name}`; did you mean {' or '.join(close)}?")
    chosen: Any = tyro.cli(COMMANDS[name], prog=f"jaxgpt data {name}", args=rest)
    runs: dict[str, Callable[[Any], int]] = {"prepare": _prepare, "join": _join, "info": _info, "tokenizer": _train}
    return runs[name](chosen)


def _prepare(chosen: Prepare) -> int:
    from jaxgpt.commands.data_progress import progress_bar
    from jaxgpt.data.preparation.parts import part_folder, share
    from jaxgpt.data.preparation.prepare import prepare_shards
    from jaxgpt.data.preparation.tokenise import Settings

    if len(chosen.paths) < 2:
        raise UserError("name what to read and then the folder to write: jaxgpt data prepare INPUT... FOLDER")
    folder = Path(chosen.paths[-1]).expanduser()
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and the last argument is the folder to write: add one")
    inputs, fraction = _inputs(chosen, folder)
    if chosen.part is not None:
        inputs, folder = share(inputs, chosen.part), part_folder(folder, chosen.part)
    size = sum(source.size for source in inputs)
    workers = chosen.workers if chosen.workers is not None else len(os.sched_getaffinity(0))
    if workers < 0:
        raise UserError(f"--workers {workers} must not be below 0; 0 does all in one process")
    is_first = chosen.part is None or chosen.part.startswith("0/")
    lower_mmap_threshold()
    with progress_bar(size, inputs) as report:
        manifest = prepare_shards(
            inputs,
            folder,
            _tokenizer(chosen.tokenizer),
            Settings(chosen.text_field, chosen.errors, fraction),
            shard_tokens=chosen.shard_tokens,
            val_tokens=chosen.val_tokens if is_first else None,
            workers=0 if 0 < size < SMALL else workers,
            report=report,
        )
    _describe(folder, manifest)
    return 0


def _inputs(chosen: Prepare, folder: Path) -> tuple[tuple["Input", ...], float]:
    """What is read, each file with its split where that is decided by file; and the fraction where by document."""
    from jaxgpt.data.preparation.inputs import STDIN, find

    found = find(list(chosen.paths[:-1]), chosen.suffix, exclude=folder)
    if line := found.describe_left_out():
        print(line, file=sys.stderr)  # noqa: T201
    inputs = found.inputs
    if chosen.stdin_format == "text":
        inputs = tuple(dataclasses.replace(one, kind="text") if one.path == STDIN else one for one in inputs)
    if chosen.val_tokens is not None:
        if chosen.val_tokens < 1:
            raise UserError(f"--val-tokens {chosen.val_tokens} must be at least 1")
        return inputs, 0.0
    try:
        fraction = float(chosen.validation)
    except ValueError:
        return _held_back(inputs, chosen), 0.0
    if not 0 <= fraction < 1:
        raise UserError(f"--validation {chosen.validation} must be at least 0 and below 1, a file, or a split")
    return inputs, fraction


def _held_back(inputs: tuple["Input", ...], chosen: Prepare) -> tuple["Input", ...]:
    """The inputs with their splits, where --validation is a path or the name of a split."""
    from jaxgpt.data.preparation.hub import split_name
    from jaxgpt.data.preparation.inputs import HUB, find

    if Path(chosen.validation).exists() or chosen.validation.startswith(HUB):
        held_back = find([chosen.validation], chosen.suffix).inputs
        paths = {source.path for source in held_back}
        train = tuple(source for source in inputs if source.path not in paths)
    else:
        named = {source: split_name(source) for source in inputs}
        held_back = tuple(source for source, split in named.items() if split == chosen.validation)
        has_train = "train" in named.values()
        train = tuple(source for source, split in named.items() if split == "train" or not (has_train or split))
        if not held_back:
            splits = sorted({split for split in named.values() if split})
            raise UserError(
                f"--validation {chosen.validation!r} is neither a fraction, nor a file, nor a split of the data"
                + (f": these are {', '.join(splits)}" if splits else ", which have none")
            )
    return tuple(
        [dataclasses.replace(source, split="train") for source in train]
        + [dataclasses.replace(source, split="validation") for source in held_back]
    )


def _tokenizer(name: str) -> "Tokenizer":
    if name == "gpt2":
        from jaxgpt.data.tokenizer import GPT2Tokenizer

        return GPT2Tokenizer()
    from jaxgpt.loading import load_tokenizer

    return load_tokenizer(name)


def _describe(folder: Path, manifest: dict) -> None:
    for split, counts in manifest["splits"].items():
        shards = sum(shard["split"] == split for shard in manifest["shards"])
        print(  # noqa: T201
            f"{split:<11}{counts['tokens']:>16,} tokens {counts['documents']:>12,} documents "
            f"{counts['bytes']:>16,} bytes of text {shards:>5} shards"
        )
    left = [f"{count:,} {kind}" for kind, count in manifest.get("left_out", {}).items() if count]
    if left:
        print(f"documents left out: {', '.join(left)}")  # noqa: T201
    if not manifest["splits"]["validation"]["tokens"]:
        print("nothing is held back for validation: see --validation and --val-tokens")  # noqa: T201
    print(f"train on it with: jaxgpt train PRESET --data.source {folder}")  # noqa: T201


def _join(chosen: Join) -> int:
    from jaxgpt.data.preparation.parts import join

    _describe(chosen.folder, join(chosen.folder))
    return 0


def _info(chosen: Info) -> int:
    from jaxgpt.data.preparation.info import describe

    print(describe(chosen.folder, verify=chosen.verify, documents=chosen.documents, seed=chosen.seed))  # noqa: T201
    return 0


def _train(chosen: TrainTokenizer) -> int:
    from jaxgpt.data.hf_tokenizer import train_bpe, write_tokenizer
    from jaxgpt.data.preparation.inputs import find
    from jaxgpt.data.preparation.tokenise import Settings, read_texts

    if len(chosen.paths) < 2:
        raise UserError("name what to read and then the folder to write: jaxgpt data tokenizer INPUT... FOLDER")
    folder = Path(chosen.paths[-1]).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty, and the last argument is the folder to write: name another")
    found = find(list(chosen.paths[:-1]), chosen.suffix, exclude=folder)
    if line := found.describe_left_out():
        print(line, file=sys.stderr)  # noqa: T201
    texts = read_texts(found.inputs, Settings(chosen.text_field, "strict", 0.0))
    tokenizer = train_bpe(texts, chosen.vocab_size)
    try:
        write_tokenizer(tokenizer, folder)
    except OSError as error:
        for half in folder.glob("*"):  # it was empty
            half.unlink()
        reason = error.strerror or error
        raise UserError(f"{folder} cannot be written ({reason}): make room, or name another folder") from None
    print(f"{folder} holds a tokenizer of {tokenizer.vocab_size:,} tokens")  # noqa: T201
    size = f"--data.tokenizer {folder} --model.vocab-size {tokenizer.vocab_size}"
    print(f"train with it by: jaxgpt train PRESET {size}")  # noqa: T201
    return 0
