"""Corpora: the standard library's own text, Shakespeare, or text of the user's."""

import hashlib
import logging
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.data.preparation.inputs import Input, find
from jaxgpt.data.preparation.reading import decoded
from jaxgpt.errors import UserError
from jaxgpt.runtime.user_cache import cache_folder

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

# Not the library (others' packages), not prose (tables of code pages), or text about text that a reader would not miss.
OUTSIDE_STDLIB = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "encodings",
    "pydoc_data",
    "__pycache__",
}


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order, in memory."""

    name: str
    found: list[str]
    """The documents as they lie on the disk."""
    source_hash: str
    """SHA-256 of these: the same text gives the same hash wherever it came from."""
    tabs: bool = False
    """Whether what is read is indented by tabs."""

    @property
    def documents(self) -> list[str]:
        """The documents as they are read. Made when asked for: most starts find them tokenised already."""
        return [with_tabs(text) for text in self.found] if self.tabs else self.found


def read(source: str) -> Corpus:
    """The corpus called `stdlib` or `shakespeare`, or else the text file or folder at this path.

    Raises:
        UserError: It is missing, empty or not text.
    """
    if source == "stdlib":
        return _corpus(source, list(_stdlib()), tabs=True)
    if source == "shakespeare":
        return _corpus(source, [read_text(shakespeare())])
    documents = ["".join(decoded(text, "strict")) for text in find_texts(source)]
    corpus = _corpus(Path(source).expanduser().resolve().name, documents)
    if not corpus.found:
        raise UserError(f"data {source!r} is empty: give a text file, or a folder of them")
    return corpus


def find_texts(source: str) -> tuple[Input, ...]:
    """The text file at a path, or those of a folder, sorted; what is left out is reported.

    Raises:
        UserError: There is nothing to read.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"data {source!r} does not exist: it has to be stdlib, shakespeare, the path of a text file or folder, or "
            "data that `jaxgpt data prepare` has made"
        )
    found = find([str(path)], text_only=True)
    if line := found.describe_left_out():
        counts = line.partition(";")[0]
        log.warning("%s: %s; `jaxgpt data prepare` reads .jsonl, .parquet and, by --suffix, other text", source, counts)
    return found.inputs


def hash_documents(digests: Iterable[bytes]) -> str:
    """The hash of a corpus from the SHA-256 of each document."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def _corpus(name: str, documents: list[str], *, tabs: bool = False) -> Corpus:
    documents = [document for document in documents if document.strip()]
    digests = (hashlib.sha256(document.encode()).digest() for document in documents)
    return Corpus(name, documents, hash_documents(digests), tabs)


def read_text(path: Path) -> str:
    """A text file. Raises UserError where it is none."""
    return "".join(decoded(Input(str(path), str(path), "text", 0), "strict"))


def _stdlib() -> Iterator[str]:
    """The standard library's modules, then the topics of its manual as `help()` shows them."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = sorted(_modules(root))
    if len(modules) < 100:
        raise UserError(
            f"data 'stdlib' needs the standard library's source, and {root} has {len(modules)} modules of it: "
            "use a Python that ships its source, or --data with a text file of yours"
        )
    for module in modules:
        try:
            yield read_text(module)
        except UserError:  # lib2to3 and others ship a few files in other encodings on purpose
            continue
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))


def _modules(root: Path) -> Iterator[Path]:
    """Folders that are left out are not even listed: below site-packages there may be ten thousand files."""
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - OUTSIDE_STDLIB
        # A `_sysconfigdata` module holds the paths of the machine that built this Python.
        yield from (
            Path(folder, name) for name in files if name.endswith(".py") and not name.startswith("_sysconfigdata")
        )


def with_tabs(text: str) -> str:
    """Each four spaces at the start of a line as one tab. GPT-2's vocabulary spends a token on every single space."""
    return re.sub(r"(?m)^(?: {4})+", lambda indent: "\t" * (len(indent[0]) // 4), text)


def shakespeare() -> Path:
    own = os.environ.get("JAXGPT_SHAKESPEARE")
    if own is None:
        return _download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, "tinyshakespeare.txt")
    path = Path(own).expanduser()
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHAKESPEARE_SHA256:
        raise UserError(
            f"JAXGPT_SHAKESPEARE={own!r} is not the published text (SHA-256 {SHAKESPEARE_SHA256}): "
            f"get it from {SHAKESPEARE_URL}"
        )
    return path


def _download(url: str, sha256: str, name: str) -> Path:
    import pooch  # a tenth of a second, and needed once

    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=cache_folder() / "downloads"))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise UserError(
            f"data 'shakespeare' could not be downloaded from {url} ({error}): "
            "get the file on another machine and set JAXGPT_SHAKESPEARE to its path"
        ) from error
