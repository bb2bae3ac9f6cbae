"""The pages of the documentation, taken apart: code blocks, links, headings; and stand-ins for what they name."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "experiments/LOG.md"])
HELD = [page for page in PAGES if page.name not in ("CHANGELOG.md", "LOG.md")]
"""Pages that speak of the code as it is; the others tell what was."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """One block of code on a page."""

    language: str
    code: str
    line: int


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The page's blocks in these languages, or all."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if not languages or found[1] in languages:
            yield Block(found[1], found[2], text[: found.start()].count("\n") + 2)


def words(page: Path) -> str:
    """The page without its blocks of code."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def command_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Every command of the page's shell blocks with the number of its last line, without comments."""
    for block in blocks(page, "sh"):
        command = ""
        for offset, line in enumerate(block.code.splitlines()):
            command += re.sub(r"(^|\s+)#.*", "", line).strip()
            if command.endswith("\\"):
                command = command[:-1]
            elif command:
                yield block.line + offset, command
                command = ""


def anchors(text: str) -> set[str]:
    """The anchors that headings get, on GitHub and on the site alike."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    documented = re.findall(r"^::: (\S+)$", text, re.MULTILINE)  # the site's, by mkdocstrings
    return set(documented) | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fill_hub_cache(folder: Path, model: str, **shape: object) -> Path:
    """Put a tiny GPT-2 where the hub's client finds `model` without a network. Returns its folder."""
    from flax import nnx

    from converters import save_pretrained
    from jaxgpt import GPT, GPTConfig

    cache = folder / f"models--{model.replace('/', '--')}"
    (cache / "refs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    config = GPTConfig(**{"num_layers": 1, "num_heads": 12, "d_model": 24, **shape})
    snapshot = cache / "snapshots" / ("0" * 40)
    save_pretrained(GPT(config, rngs=nnx.Rngs(0)), snapshot, "gpt2")
    return snapshot
