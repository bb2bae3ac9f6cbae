"""Text to train on, prepared once into the user's cache folder by the code of `jaxgpt data prepare`."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from jaxgpt.data.corpus import find_texts, read
from jaxgpt.data.held_back import HELD_BACK, too_short
from jaxgpt.data.learned import learn, learned_size
from jaxgpt.data.preparation.inputs import Input
from jaxgpt.data.preparation.manifest import NAME, write_json
from jaxgpt.data.preparation.prepare import PROGRESS, prepare_shards
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.data.prepared import open_prepared
from jaxgpt.data.text import Text, in_memory, survey
from jaxgpt.data.tokenizer import CharTokenizer, Tokenizer
from jaxgpt.data.tokenizer_files import as_tokenizer
from jaxgpt.data.tokens import TokenData
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder

FORMAT = 2
SMALL = 4_000_000
"""Bytes of text below which starting processes takes longer than the work."""
TOKENIZERS = "tokenizers"
"""The folder, beside the tokens', of what was learnt from texts."""
SECONDS_A_LEFTOVER_IS_KEPT = 7 * 24 * 3600

log = logging.getLogger(__name__)


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
    with usable(folder):
        return _prepare_text(source, named, folder)


@contextlib.contextmanager
def usable(cache: Path) -> Iterator[None]:
    """Within, a cache folder that cannot be written raises a UserError."""
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(str(cache.parent)):
            raise
        raise UserError(
            f"the cache folder {cache.parent} cannot be written ({error.strerror}): make room there, or set "
            "JAXGPT_CACHE to another folder"
        ) from None


def _prepare_text(source: str, named: Tokenizer | str, folder: Path) -> TokenData:
    if source in ("stdlib", "shakespeare"):
        return _prepared(in_memory(read(source)), named, folder)
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
        data = _prepared(survey(name, inputs), named, folder)
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
            raise too_short("validation")
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


def _sweep(cache: Path) -> None:
    """Delete what killed preparations left long ago, of this version and of 0.1."""
    old = time.time() - SECONDS_A_LEFTOVER_IS_KEPT
    for path in cache.iterdir():
        is_leftover = path.name.startswith(".") or (path.name != "index" and not (path / NAME).exists())
        if is_leftover and path.stat().st_mtime < old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
