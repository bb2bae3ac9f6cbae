"""Corpora: the standard library's own text, Shakespeare, or text of the user's."""

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxgpt.runtime.user_cache import cache_folder

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SUFFIXES = (".md", ".py", ".txt")

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


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order."""

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

    ValueError where it is missing, empty or not text.
    """
    if source == "stdlib":
        return _corpus(source, list(_stdlib()), tabs=True)
    if source == "shakespeare":
        return _corpus(source, [_text(_shakespeare())])
    path = Path(source).expanduser()
    if not path.exists():
        raise ValueError(
            f"data {source!r} does not exist: it has to be stdlib, shakespeare, or the path of a text file or folder"
        )
    documents = [_text(file) for file in _files(path)] if path.is_dir() else [_text(path)]
    if not any(document.strip() for document in documents):
        holds = f"holds no text in {', '.join(SUFFIXES)} files" if path.is_dir() else "is empty"
        raise ValueError(f"data {source!r} {holds}: give a text file, or a folder of them")
    return _corpus(path.resolve().name, documents)


def _corpus(name: str, documents: list[str], *, tabs: bool = False) -> Corpus:
    documents = [document for document in documents if document.strip()]
    digest = hashlib.sha256()
    for document in documents:
        digest.update(hashlib.sha256(document.encode()).digest())
    return Corpus(name, documents, digest.hexdigest(), tabs)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    try:
        if b"\0" in content:
            raise UnicodeError
        return content.decode()
    except UnicodeError:
        raise ValueError(f"{path} is not text in UTF-8: convert it, or leave it out") from None


def _files(folder: Path) -> list[Path]:
    """The text files below a folder, hidden ones left out."""
    found = (path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _stdlib() -> Iterator[str]:
    """The standard library's modules, then the topics of its manual as `help()` shows them."""
    root = Path(sysconfig.get_path("stdlib"))
    modules = sorted(_modules(root))
    if len(modules) < 100:
        raise ValueError(
            f"data 'stdlib' needs the standard library's source, and {root} has {len(modules)} modules of it: "
            "use a Python that ships its source, or --data with a text file of yours"
        )
    for module in modules:
        try:
            yield _text(module)
        except ValueError:  # lib2to3 and others ship a few files in other encodings on purpose
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


def _shakespeare() -> Path:
    own = os.environ.get("JAXGPT_SHAKESPEARE")
    if own is None:
        return _download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, "tinyshakespeare.txt")
    path = Path(own).expanduser()
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHAKESPEARE_SHA256:
        raise ValueError(
            f"JAXGPT_SHAKESPEARE={own!r} is not the published text (SHA-256 {SHAKESPEARE_SHA256}): "
            f"get it from {SHAKESPEARE_URL}"
        )
    return path


def _download(url: str, sha256: str, name: str) -> Path:
    import pooch  # a tenth of a second, and needed once

    try:
        return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=cache_folder() / "downloads"))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        raise ValueError(
            f"data 'shakespeare' could not be downloaded from {url} ({error}): "
            "get the file on another machine and set JAXGPT_SHAKESPEARE to its path"
        ) from error
