"""Text to train on, prepared once into the user's cache folder by the code of `jaxgpt data prepare`."""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from jaxgpt.data.corpus import Corpus, find_texts, hash_documents, read
from jaxgpt.data.learned import learn, learned_size
from jaxgpt.data.preparation.inputs import Input, Split
from jaxgpt.data.preparation.manifest import NAME, write_json
from jaxgpt.data.preparation.prepare import PROGRESS, prepare_shards
from jaxgpt.data.preparation.reading import decoded
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.data.prepared import open_prepared
from jaxgpt.data.tokenizer import CharTokenizer, Tokenizer
from jaxgpt.data.tokenizer_files import as_tokenizer
from jaxgpt.data.tokens import TokenData
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder

FORMAT = 2
HELD_BACK = 0.1
"""The fraction of the text that is validation."""
SMALL = 4_000_000
"""Bytes of text below which starting processes takes longer than the work."""
TOKENIZERS = "tokenizers"
"""The folder, beside the tokens', of what was learnt from texts."""
SECONDS_A_LEFTOVER_IS_KEPT = 7 * 24 * 3600

log = logging.getLogger(__name__)


class Text(NamedTuple):
    """Documents that are not tokenised yet: what a first pass over them has found."""

    name: str
    source_hash: str
    inputs: tuple[Input, ...]
    """With their splits."""
    characters: frozenset[str]
    bytes: int
    files: dict[str, str]
    """The SHA-256 of each file, where there are not too many."""


def prepare_text(source: str, tokenizer: str | Tokenizer, cache: Path | None = None) -> TokenData:
    """The tokens of stdlib, shakespeare, or a text file or folder, made at most once per cache folder.

    The tokenizer is `gpt2`, `char` (the characters of this corpus), `bpe-2048` (so many byte pairs of this corpus), a
    folder's, or one made before, such as a run's.
    Files whose names, sizes and times are known are not read again.

    Raises:
        UserError: The text is missing, empty, too short, or no text; or the tokenizer cannot spell it.
    """
    of_the_text = tokenizer == CharTokenizer.name or learned_size(tokenizer) is not None
    named = tokenizer if of_the_text else as_tokenizer(tokenizer)
    folder = (cache or cache_folder()) / "tokens"
    if source in ("stdlib", "shakespeare"):
        return _prepared(_in_memory(read(source)), named, folder)
    inputs = find_texts(source)
    name = Path(source).expanduser().resolve().name
    spec = named if isinstance(named, str) else named.spec()
    stamps = [[os.path.abspath(one.path), one.size, one.modified] for one in inputs]
    if inputs[0].kind != "text":
        return _documents(name, inputs, named, folder, _digest([FORMAT, HELD_BACK, spec, stamps]))
    index = folder / "index" / f"{_digest([FORMAT, HELD_BACK, spec, stamps])}.json"
    try:
        return _open(folder / json.loads(index.read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        data = _prepared(_survey(name, inputs), named, folder)
        index.parent.mkdir(exist_ok=True)
        write_json(index, {"folder": data.manifest["folder"]})
        return data


def _documents(name: str, inputs: tuple[Input, ...], tokenizer: Tokenizer | str, cache: Path, digest: str) -> TokenData:
    """A file of JSON lines or of parquet, as `jaxgpt data prepare` makes it; a tenth of the documents is validation."""
    if learned_size(tokenizer) is not None:
        settings = Settings(validation=HELD_BACK)
        tokenizer = learn(str(tokenizer), inputs, settings, digest, cache.parent / TOKENIZERS)
    if isinstance(tokenizer, str):
        raise UserError(
            f"the characters of {name} are not known before it is read: use the gpt2 tokenizer, or a text file"
        )
    folder = cache / f"{name}-{tokenizer.name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if folder.exists() and not (folder / PROGRESS).exists():
            try:
                return open_prepared(folder)
            except UserError:
                log.warning("%s is damaged: making it again", folder)
                shutil.rmtree(folder)
        workers = 0 if sum(one.size for one in inputs) < SMALL else len(os.sched_getaffinity(0))
        about = {"source": name}
        prepare_shards(inputs, folder, tokenizer, Settings(validation=HELD_BACK), workers=workers, about=about)
        return open_prepared(folder)


def _prepared(text: Text, tokenizer: Tokenizer | str, cache: Path) -> TokenData:
    """The tokens of a text, from the cache or made now. One process makes them while the others wait."""
    chosen = _own_tokenizer(text, tokenizer, cache) if isinstance(tokenizer, str) else tokenizer
    digest = _digest([FORMAT, HELD_BACK, text.source_hash, text.name == "stdlib", chosen.spec()])
    folder = cache / f"{text.name}-{chosen.name}-{digest}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{folder.name}.lock"):
        if folder.exists() and not (folder / PROGRESS).exists():
            try:
                return _open(folder)
            except UserError:
                log.warning("%s is damaged: making it again", folder)
                shutil.rmtree(folder)
        _sweep(cache)
        workers = 0 if text.bytes < SMALL else len(os.sched_getaffinity(0))
        about = {"source": text.name, "text_hash": text.source_hash, "files": text.files}
        settings = Settings(separator="after")
        try:
            manifest = prepare_shards(text.inputs, folder, chosen, settings, workers=workers, about=about)
        except UserError as error:
            if (folder / PROGRESS).exists() and "goes on" in str(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if not manifest["splits"]["validation"]["tokens"]:
            shutil.rmtree(folder)
            raise _too_short("validation")
        return _open(folder)


def _own_tokenizer(text: Text, name: str, cache: Path) -> Tokenizer:
    """The text's characters, or its byte pairs."""
    if name == CharTokenizer.name:
        return CharTokenizer("".join(sorted(text.characters)))
    return learn(
        name, text.inputs, Settings(), f"{text.name == 'stdlib'} {text.source_hash}", cache.parent / TOKENIZERS
    )


def _open(folder: Path) -> TokenData:
    data = open_prepared(folder)
    own = {"folder": folder.name, "source_hash": data.manifest["text_hash"]}
    return dataclasses.replace(data, manifest=data.manifest | own)


def _in_memory(corpus: Corpus) -> Text:
    """A corpus with its splits."""
    documents = corpus.documents
    if len(documents) == 1:
        cut = _cut(len(documents[0]))
        parts: dict[Split, list[str]] = {"train": [documents[0][:cut]], "validation": [documents[0][cut:]]}
    else:
        train, validation = split(documents)
        parts = {"train": train, "validation": validation}
    inputs = tuple(
        Input(name, corpus.name, "memory", sum(map(len, texts)), split=name, alone=len(texts) == 1, texts=tuple(texts))
        for name, texts in parts.items()
    )
    characters = frozenset().union(*documents)
    return Text(corpus.name, corpus.source_hash, inputs, characters, sum(map(len, documents)), {})


def _survey(name: str, inputs: tuple[Input, ...]) -> Text:
    """What a pass over files finds, a chunk in memory at a time. Blank files do not count."""
    kept: list[Input] = []
    digests: list[bytes] = []
    sizes: list[int] = []
    characters: set[str] = set()
    length = 0
    for one in inputs:
        digest, size, length, blank, own = hashlib.sha256(), 0, 0, True, set[str]()
        for chunk in decoded(one, "strict"):
            content = chunk.encode()
            digest.update(content)
            size, length, blank = size + len(content), length + len(chunk), blank and not chunk.strip()
            own.update(chunk)
        if not blank:
            kept.append(one)
            digests.append(digest.digest())
            sizes.append(size)
            characters |= own
    if not kept:
        raise UserError(f"data {name!r} is empty: give a text file, or a folder of them")
    files = {one.name: digest.hex() for one, digest in zip(kept, digests)} if len(kept) <= 10_000 else {}
    found = _with_splits(kept, digests, sizes, length)
    return Text(name, hash_documents(digests), found, frozenset(characters), sum(sizes), files)


def _with_splits(inputs: list[Input], digests: list[bytes], sizes: list[int], length: int) -> tuple[Input, ...]:
    """Of a single text, its end is validation; of several, whole ones are. `length`: characters of the last."""
    if len(inputs) == 1:
        cut = _cut(length)
        first = dataclasses.replace(inputs[0], split="train", characters=(0, cut), alone=True)
        return first, dataclasses.replace(first, split="validation", characters=(cut, None))
    held_back = choose_held_back(digests, sizes)
    parts: list[tuple[Split, list[int]]] = [
        ("train", [i for i in range(len(inputs)) if i not in held_back]),
        ("validation", sorted(held_back)),
    ]
    return tuple(
        dataclasses.replace(inputs[i], split=split, alone=len(chosen) == 1) for split, chosen in parts for i in chosen
    )


def split(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """The documents for training and those for validation, both in order."""
    contents = [document.encode() for document in documents]
    held_back = choose_held_back([hashlib.sha256(text).digest() for text in contents], [len(text) for text in contents])
    train = [document for i, document in enumerate(documents) if i not in held_back]
    return train, [documents[i] for i in sorted(held_back)]


def choose_held_back(digests: list[bytes], sizes: list[int]) -> set[int]:
    """Documents with a tenth of the bytes, at least one: those with the smallest hashes that fit.

    The order of hashes is random to the text, so every kind of document is held back, and the same on all machines.
    """
    order = sorted(range(len(digests)), key=digests.__getitem__)
    room, held_back = HELD_BACK * sum(sizes), set()
    for i in order:
        if sizes[i] <= room:
            held_back.add(i)
            room -= sizes[i]
    return held_back or {min(order, key=sizes.__getitem__)}


def _cut(length: int) -> int:
    """Where the validation of a single text begins."""
    cut = int(length * (1 - HELD_BACK))
    if not 0 < cut < length:
        raise _too_short("train")
    return cut


def _too_short(part: str) -> UserError:
    return UserError(
        f"the text is too short to hold back a tenth of it for validation: its {part} part is empty; add text"
    )


def _sweep(cache: Path) -> None:
    """Delete what killed preparations left long ago, of this version and of 0.1."""
    old = time.time() - SECONDS_A_LEFTOVER_IS_KEPT
    for path in cache.iterdir():
        is_leftover = path.name.startswith(".") or (path.name != "index" and not (path / NAME).exists())
        if is_leftover and path.stat().st_mtime < old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
