"""`jaxgpt data prepare`: inputs in, a folder of token shards and its manifest out."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jaxgpt.data.preparation.inputs import Input
from jaxgpt.data.preparation.manifest import NAME, make_manifest, read_manifest, write_json
from jaxgpt.data.preparation.reading import START, Block, Place, read_blocks
from jaxgpt.data.preparation.shard_writer import Shard, ShardWriter, Written, enough_room
from jaxgpt.data.preparation.tokenise import Part, Settings, Tokenised
from jaxgpt.data.preparation.workers import Workers
from jaxgpt.data.token_files import MOST_TOKENS, token_dtype
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError

PROGRESS = "progress.json"
SECONDS_BETWEEN_SAVES = 5.0
SPLITS = ("train", "validation")


@dataclass
class Progress:
    """How far a preparation has come. What it says is on the disk: a killed one goes on from here."""

    key: dict[str, Any]
    """What must be the same for going on."""
    next: Place = START
    split: str | None = None
    """Of the document that goes on at `next`."""
    written: dict[str, Written] = field(default_factory=lambda: {split: Written() for split in SPLITS})
    empty: int = 0
    skipped: int = 0
    documents: int = 0
    tokens: int = 0
    seen_bytes: int = 0

    def record(self) -> dict[str, Any]:
        """What JSON can hold. The key, which may name a million files, is not copied."""
        return {**vars(self), "written": {split: asdict(written) for split, written in self.written.items()}}

    @classmethod
    def load(cls, path: Path) -> "Progress":
        saved = json.loads(path.read_text(encoding="utf-8"))
        saved["next"] = Place(*saved["next"])
        saved["written"] = {
            split: Written([Shard(**shard) for shard in written["whole"]], written["open"] and Shard(**written["open"]))
            for split, written in saved["written"].items()
        }
        return cls(**saved)


def prepare_shards(
    inputs: tuple[Input, ...],
    folder: Path,
    tokenizer: Tokenizer,
    settings: Settings,
    *,
    shard_tokens: int = 10**8,
    val_tokens: int | None = None,
    workers: int = 0,
    report: Callable[[Progress], None] = lambda _: None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the tokens of all inputs into a folder, and return its manifest.

    What is written does not depend on the number of workers, nor on how often it was stopped and started again.
    `val_tokens`: the first so many tokens are validation, as llm.c has it. `about` is kept in the manifest.

    Raises:
        UserError: The folder holds something else, an input cannot be read, or the disk is full.
    """
    if not 0 < shard_tokens <= MOST_TOKENS:
        raise UserError(f"shard_tokens={shard_tokens} must be from 1 to {MOST_TOKENS}: the header counts in int32")
    key = _key(inputs, tokenizer, settings, shard_tokens, val_tokens)
    if (folder / NAME).exists():
        manifest = read_manifest(folder)
        if manifest["made_from"] != {name: value for name, value in key.items() if name != "modified"}:
            raise UserError(f"{folder} holds data prepared otherwise: name another folder, or remove it")
        return manifest
    progress = _progress(folder, key)
    names = [source.name for source in inputs]
    dtype = token_dtype(tokenizer.vocab_size)
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(folder, split, dtype, shard_tokens, progress.written[split]))
            for split in SPLITS
        }
        blocks = stack.enter_context(closing(read_blocks(inputs, settings.field, settings.errors, progress.next)))
        processes = stack.enter_context(Workers(workers, tokenizer, settings))
        saved = time.monotonic()
        for block, result in stack.enter_context(closing(processes.tokenise(blocks))):
            whole = _count_whole(progress)
            _write(block, result, progress, writers, names, val_tokens)
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES or _count_whole(progress) > whole:
                _save(folder, progress, writers)
                saved = time.monotonic()
            report(progress)
        for writer in writers.values():
            writer.finish()
        _save(folder, progress, writers)
    shards = [shard for split in SPLITS for shard in progress.written[split].whole]
    if not any(shard.split == "train" for shard in shards):
        raise UserError(f"{', '.join(names[:3])} hold{'s' * (len(names) == 1)} no text for training: is it empty?")
    made_from = {name: value for name, value in key.items() if name != "modified"}
    left_out = {"empty": progress.empty, "skipped": progress.skipped}
    manifest = make_manifest(tokenizer, shards, {"made_from": made_from, "left_out": left_out, **(about or {})})
    write_json(folder / NAME, manifest)
    (folder / PROGRESS).unlink()
    return manifest


def _save(folder: Path, progress: Progress, writers: dict[str, ShardWriter]) -> None:
    """Have the disk hold what is written, then say so, then give whole shards their names: in this order."""
    for writer in writers.values():
        writer.flush()
    with enough_room(folder):
        write_json(folder / PROGRESS, progress.record(), indent=None)
    for writer in writers.values():
        writer.publish()


def _count_whole(progress: Progress) -> int:
    return sum(len(written.whole) for written in progress.written.values())


def _key(
    inputs: tuple[Input, ...], tokenizer: Tokenizer, settings: Settings, shard_tokens: int, val_tokens: int | None
) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "tokenizer": tokenizer.spec(),
        "shard_tokens": shard_tokens,
        "val_tokens": val_tokens,
        "inputs": [[source.name, source.size, source.split] for source in inputs],
        "modified": [source.modified for source in inputs],
    }


def _progress(folder: Path, key: dict[str, Any]) -> Progress:
    """Where to go on, in a folder that is new or holds a part of the same preparation."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): name another folder") from None
    if (folder / PROGRESS).exists():
        try:
            progress = Progress.load(folder / PROGRESS)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / PROGRESS} is damaged ({error}): remove {folder} and prepare again") from None
        if changed := [name for name in key if key[name] != progress.key.get(name)]:
            raise UserError(
                f"{folder} holds a part of another preparation ({', '.join(changed)} differ): give what it began with, "
                "or name another folder"
            )
        return progress
    if others := [path.name for path in folder.iterdir() if not path.name.startswith(".")]:
        raise UserError(f"{folder} is not empty ({others[0]}): name a new folder")
    return Progress(key)


def _write(
    block: Block,
    result: Tokenised,
    progress: Progress,
    writers: dict[str, ShardWriter],
    names: list[str],
    val_tokens: int | None,
) -> None:
    """Write what a block has become, and note that it is written."""
    begins = block.kind != "piece" or block.begins
    for own_split, part in result.parts.items():
        split = own_split if begins else progress.split or own_split
        progress.split = split
        progress.tokens += len(part.tokens)
        progress.documents += len(part.counts) - (not begins)
        progress.seen_bytes += int(part.bytes.sum())
        for to, piece, piece_begins in _by_count(split, part, begins, writers, val_tokens):
            writers[to].add(piece, names, piece_begins)
    progress.empty += result.empty
    progress.skipped += result.skipped
    progress.next = block.after


def _by_count(
    split: str, part: Part, begins: bool, writers: dict[str, ShardWriter], val_tokens: int | None
) -> Iterator[tuple[str, Part, bool]]:
    """The part as it is; or, until validation has `val_tokens`, its first tokens for validation and then the rest."""
    written = writers["validation"].written
    has = sum(shard.tokens for shard in [*written.whole, *([written.open] if written.open else [])])
    room = max(0, (val_tokens or 0) - has) if split == "train" else 0
    if not room:
        yield split, part, begins
        return
    head, tail = part.cut(room)
    yield "validation", head, begins
    if len(tail.tokens):
        yield "train", tail, bool(len(tail.counts) == len(part.counts) - len(head.counts))
