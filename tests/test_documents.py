"""README and docs are true of the code: their Python runs, their commands are understood, their links lead on."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import huggingface_hub.constants
import jax
import pytest
import tyro

import jaxgpt
from jaxgpt.cli import COMMANDS
from jaxgpt.commands.data import COMMANDS as DATA
from tests.documents import HELD, PAGES, ROOT, anchors, blocks, command_lines, fill_hub_cache, name, words
from tests.runs import jaxgpt as run
from tests.runs import write_text

PYTHON = [page for page in HELD if any(blocks(page, "python"))]
SHELL = [(page, line, text) for page in HELD for line, text in command_lines(page)]
CONVERTED = ("gpt2-rotary", "gpt2-kv4")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with what the pages name: texts, a hub's cache with a tiny model called openai-community/gpt2, and
    folders that the pages convert it to.
    """
    folder = tmp_path_factory.mktemp("stand-ins")
    model = fill_hub_cache(folder / "hub", "openai-community/gpt2")
    for converted in CONVERTED:
        (folder / converted).symlink_to(model)
    text = write_text(folder / "my.txt").read_text()
    (folder / "my.txt").write_text(text[:6000])
    (folder / "my-texts").mkdir()
    (folder / "my-texts" / "one.txt").write_text(text)
    (folder / "my-texts" / "two.md").write_text((ROOT / "README.md").read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def in_stand_ins(with_texts, stand_ins) -> Path:
    """The current folder has what earlier commands of a page have made, too."""
    for path in CONVERTED:
        (with_texts / path).symlink_to(stand_ins / path)
    return with_texts


@pytest.fixture
def with_texts(stand_ins, tmp_path, monkeypatch):
    """The current folder has the texts, the hub's cache the model, and jax is as a user has it."""
    for path in ("my.txt", "my-texts"):
        (tmp_path / path).symlink_to(stand_ins / path)
    (tmp_path / "mine.toml").write_text(next(blocks(ROOT / "docs/settings.md", "toml")).code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(stand_ins / "hub"))
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield tmp_path
    jax.config.update("jax_numpy_rank_promotion", "raise")


LONG = {"docs/training.md"}
"""Pages whose Python trains several models."""
PYTHON_PAGES = [pytest.param(page, marks=[pytest.mark.slow] * (name(page) in LONG), id=name(page)) for page in PYTHON]


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, in_stand_ins):
    namespace: dict = {"__name__": "page"}
    for block in blocks(page, "python"):
        code = "\n" * (block.line - 1) + block.code  # so that a traceback shows the page's own line
        exec(compile(code, name(page), "exec"), namespace)


@pytest.mark.parametrize(("page", "line", "text"), SHELL, ids=[f"{name(page)}:{line}" for page, line, _ in SHELL])
def test_a_command_of_a_page_is_understood(page, line, text, in_stand_ins, monkeypatch):
    text = text.replace("$WHAT", "gpt2-xl --run run")
    text = re.sub(r" > \S+$", "", text)
    text = re.sub(r"^(srun|mpirun -np \d+|torchrun .* --) ", "", text)
    program, *arguments = shlex.split(text)
    if program == "jaxgpt":
        parse(arguments, monkeypatch)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {argument for argument in arguments if "=" not in argument} <= set(targets)
    elif (program, *arguments[:1]) == ("pip", "install"):
        extras = re.findall(r"\.\[([\w,-]+)\]", text)
        assert set(",".join(extras).split(",")) - {""} <= set(PROJECT["optional-dependencies"])
    elif program == "python":
        assert importlib.util.find_spec(arguments[1])
    else:
        assert re.match(r"source |RUN=|if |cd |git clone ", text), f"a line that no test understands: {text}"


class ParsedError(Exception):
    """The flags were understood."""


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command up to where its flags are read, by its own parser."""
    usual, command = tyro.cli, importlib.import_module(f"jaxgpt.commands.{arguments[0]}")
    if arguments[0] == "lm_eval":
        return  # its flags are the harness's

    def read(*given: object, **named: object) -> object:
        found = usual(*given, **named)
        if named.get("return_unknown_args"):
            return found
        raise ParsedError

    monkeypatch.setattr(tyro, "cli", read)
    monkeypatch.setattr("jaxgpt.runtime.processes.connect", lambda *_: None)
    made_before = re.search(r"--resume|--config (whole|runs)", " ".join(arguments))
    if made_before:
        pytest.skip("reads a run that the page made before; the slow test makes it")
    with pytest.raises(ParsedError):
        command.main(arguments[1:])


SMALLER = {
    "train": "--steps 2 --eval-every 1 --eval-batches 1 --sample-tokens 4 --batch-size 1 --microbatches 1",
    "finetune": "--steps 2 --eval-every 1 --eval-batches 1 --sample-tokens 4 --batch-size 1 --microbatches 1",
    "generate": "--max-new-tokens 4",
}
"""What makes a command of a page quick; later flags take the place of the page's."""


@pytest.mark.slow
def test_the_commands_about_data_run_one_after_the_other(with_texts):
    """Those of README and tutorial do in test_transcript.py."""
    page = ROOT / "docs/data.md"
    for line, text in command_lines(page):
        program, *arguments = shlex.split(text)
        if program != "jaxgpt":
            continue
        smaller = "--steps 3" if "--resume" in arguments else SMALLER.get(arguments[0], "")
        outcome = run(*arguments, *smaller.split())
        assert outcome.code == 0, f"{name(page)}:{line}: {text}\n{outcome.out}{outcome.err}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for url in re.findall(r"\]\(([^)\s]+)\)", words(page)):
        if re.match(r"[a-z]+:", url):
            continue
        path, _, anchor = url.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {url}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{name(page)}: {url}"


@pytest.mark.parametrize("page", HELD, ids=name)
def test_every_public_name_that_a_page_says_is_there(page):
    for said in re.findall(r"`jaxgpt\.([A-Za-z_][\w.]*)", words(page)):
        at, *rest = said.split(".")
        found = getattr(jaxgpt, at, None) or importlib.import_module(f"jaxgpt.{at}")
        for part in rest:
            found = getattr(found, part, None) or importlib.import_module(f"{found.__name__}.{part}")


def test_the_api_page_has_every_public_name():
    assert set(re.findall(r"^::: jaxgpt\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)) == set(
        jaxgpt.__all__
    )


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """All flags of all subcommands, as their own help lists them."""
    program = (
        "import contextlib, sys; from jaxgpt.cli import main\n"
        f"for name in {[*([name] for name in COMMANDS if name != 'lm_eval'), *(['data', name] for name in DATA)]}:\n"
        "    sys.argv = ['jaxgpt', *name, '--help-all' if name == ['train'] else '--help']\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        main()\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return set(re.findall(r"--[a-z][\w.-]*", shown))


ELSEWHERE = {"--dist", "--run-path", "--no-python", "--help", "--help-all", "--version", "--logdir", "--lr"}
"""Flags of pytest, torchrun and the like, and those that print and end."""


@pytest.mark.parametrize("page", HELD, ids=name)
def test_every_flag_that_a_page_says_is_there(page, flags):
    text = words(page)
    if page.name == "coming-from.md":  # its left column has the flags of others
        text = "\n".join(line.split("|")[2] for line in text.splitlines() if line.startswith("|"))
    code = [code for code in re.findall(r"`([^`\n]+)`", text) if not code.startswith(("python -m", "pytest", "pip"))]
    said = {flag for piece in code for flag in re.findall(r"(?<!\S)--[a-z][\w.-]*", piece)}
    assert said - ELSEWHERE <= flags


def test_a_message_that_troubleshooting_explains_is_one_that_the_code_says():
    spoken = " ".join(path.read_text() for room in ("jaxgpt", "converters") for path in (ROOT / room).rglob("*.py"))
    spoken = re.sub(r'"\s*\n\s*f?"', "", spoken)  # a message goes on in the next line
    explained = re.findall(
        r"^- `([^`]+)`|^- .*?, (?:and )?`([^`]+)`:", words(ROOT / "docs/troubleshooting.md"), re.MULTILINE
    )
    assert len(explained) > 20
    for message in filter(None, (part for pair in explained for part in pair)):
        for piece in re.split("…", message):
            assert piece.strip() in spoken, message


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, stand_ins, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HF_HUB_CACHE", str(stand_ins / "hub"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs", reason="the site needs the extra docs")
    pytest.importorskip("material", reason="the site needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    for page in (tmp_path / "site").rglob("*.html"):
        loaded = re.findall(r'<(?:script|img|link|iframe)[^>]*(?:src|href)="(https?:[^"]+)"', page.read_text())
        assert not loaded, page.name
