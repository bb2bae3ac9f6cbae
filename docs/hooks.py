"""What MkDocs adds to the pages in docs/: files of the repository that are pages too, notebooks, figures, equations.

Links between files of the repository work where it is browsed; `on_page_markdown` turns them into links of the site.
"""

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "DESIGN.md": "decisions.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "experiments/LOG.md": "log.md",
    "experiments/report.html": "report.html",
}
"""Files outside docs/ that the site holds, and the name they have there."""
FIGURES = "experiments/results/figures"
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
DISPLAYED, INLINE = re.compile(r"^\$\$(.+?)\$\$$", re.MULTILINE | re.DOTALL), re.compile(r"(?<!\$)\$([^$\n]+)\$(?!\$)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, notebooks and figures."""
    for origin, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / origin).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "docs/notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    files.append(File.generated(config, "examples.md", content=examples()))
    for path in sorted((ROOT / FIGURES).glob("*.png")):
        files.append(File.generated(config, f"figures/{path.name}", content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links and equations as the site has them; code stays as it is."""
    target = page.file.src_uri
    for mark, written in {"<!-- every message -->": every_message, "<!-- every task -->": every_task}.items():
        if mark in markdown:
            markdown = markdown.replace(mark, written())
    origin = {name: path for path, name in PAGES.items()}.get(target, f"docs/{target}")
    pieces, end = [], 0
    for code in FENCED.finditer(markdown):
        pieces += [_words(markdown[end : code.start()], origin, target), code.group()]
        end = code.end()
    return "".join([*pieces, _words(markdown[end:], origin, target)])


def _words(text: str, origin: str, target: str) -> str:
    from latex2mathml.converter import convert

    text = LINK.sub(lambda link: _link(link, origin, target), text)
    text = DISPLAYED.sub(
        lambda found: f'<div class="equation">{convert(found[1].strip(), display="block")}</div>', text
    )
    return INLINE.sub(lambda found: convert(found[1]), text)


def _link(link: re.Match[str], origin: str, target: str) -> str:
    """The link as the site has it; its words alone where it leads to a file that the site does not hold."""
    mark, words, url = link.groups()
    path, hash_, anchor = url.partition("#")
    if not path or re.match(r"[a-z]+:", url):
        return link.group()
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if path in PAGES:
        path = PAGES[path]
    elif path.startswith("docs/examples"):
        path = "examples.md"
    elif path.startswith("docs/"):
        path = path.removeprefix("docs/")
    elif path.startswith(FIGURES):
        path = f"figures/{posixpath.basename(path)}"
    else:
        return words
    return f"{mark}[{words}]({posixpath.relpath(path, posixpath.dirname(target) or '.')}{hash_}{anchor})"


def notebook(path: Path) -> str:
    """A notebook as Markdown, with what its cells printed and drew."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pieces = []
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            pieces.append(source)
            continue
        pieces.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                pieces.append(f'<img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}">')
            elif text := "".join(data["text/plain"]).rstrip():
                pieces.append(f"```text\n{COLOUR.sub('', text)}\n```")
    pieces.insert(1, f"[Download this notebook]({path.name})")
    return "\n\n".join(pieces)


def examples() -> str:
    """The scripts of docs/examples as one page."""
    pieces = ["# Five training scripts", "Each is a file in `docs/examples`, and a test runs it with few steps."]
    for path in sorted((ROOT / "docs/examples").glob("*.py")):
        code = path.read_text(encoding="utf-8")
        purpose = ast.get_docstring(ast.parse(code)) or ""
        pieces += [f"## {path.name}", purpose, f"```python\n{code.partition(purpose)[2].lstrip(chr(34)).strip()}\n```"]
    return "\n\n".join(pieces)


def every_task() -> str:
    """The standard tasks: how each is scored, and what was published for OpenAI's four sizes."""
    from jaxgpt.evaluation.tasks.run import TASKS
    from jaxgpt.evaluation.tasks.task import SIZES

    pieces = []
    for task in TASKS.values():
        pieces += [f"\n### {task.name}\n", task.protocol + "\n"]
        if task.published:
            pieces += [f"| metric | {' | '.join(SIZES)} | published by |", "|---" * (len(SIZES) + 2) + "|"]
        for row in task.published:
            numbers = " | ".join("" if value is None else str(value) for value in row.values)
            pieces.append(f"| {row.metric} | {numbers} | {row.by} |")
    return "\n".join(pieces)


def every_message() -> str:
    """Every message that the code has for people, by the file that says it."""
    pieces = ["## Every message", "What varies is written …", ""]
    for path in sorted([*(ROOT / "jaxgpt").rglob("*.py"), *(ROOT / "converters").rglob("*.py")]):
        found = [message for node in ast.walk(ast.parse(path.read_text())) if (message := _message(node))]
        if found:
            pieces += [f"\n`{path.relative_to(ROOT).as_posix()}`\n", *(f"- {message}" for message in found)]
    return "\n".join(pieces)


def _message(node: ast.AST) -> str:
    """The words of a `raise UserError(...)`; nothing for any other statement."""
    call = node.exc if isinstance(node, ast.Raise) else None
    if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in ("UserError", "ValueError"):
        return ""
    return f"`{_words_of(call.args[0])}`".replace("\n", " ") if call.args else ""


def _words_of(text: ast.expr) -> str:
    if isinstance(text, ast.Constant):
        return str(text.value).replace("`", "")
    if isinstance(text, ast.JoinedStr):
        return "".join(_words_of(value) for value in text.values)
    if isinstance(text, ast.BinOp):
        return _words_of(text.left) + _words_of(text.right)
    return "…"
