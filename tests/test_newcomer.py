"""What a stranger does tonight: a clone or the wheel alone, an empty machine, the commands of README and tutorial."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, command_lines, fill_hub_cache
from tests.runs import write_text
from tests.terminal import Terminal, commands, difference

TRANSCRIPT = ROOT / "tests" / "fixtures" / "transcript.txt"
PAGES = (ROOT / "README.md", ROOT / "docs/tutorial.md")


def environment(folder: Path, **more: object) -> dict[str, str]:
    """That of a machine on which nothing was done yet."""
    kept = {name: os.environ[name] for name in ("PATH", "PYENV_ROOT") if name in os.environ}
    return {**kept, "HOME": str(folder), "LANG": "C.UTF-8", **{name: str(value) for name, value in more.items()}}


def run(*command: object, **where: object) -> str:
    """What it printed. It has to succeed."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=900, **where)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_wheel_alone_trains_the_quickstart_in_an_empty_folder_with_the_newest_of_everything(tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").iterdir()
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(tmp_path / "venv/bin/python", "-m", "pip", "install", "--quiet", wheel)
    (tmp_path / "empty").mkdir()
    jaxgpt = tmp_path / "venv/bin/jaxgpt"
    printed = run(jaxgpt, "train", cwd=tmp_path / "empty", env=environment(tmp_path / "home"))
    assert "go on with: jaxgpt generate runs/quickstart-" in printed
    run_folder = printed.rsplit("jaxgpt generate ")[-1].split()[0]
    assert "bits per byte" in run(
        jaxgpt, "evaluate", run_folder, cwd=tmp_path / "empty", env=environment(tmp_path / "home")
    )


def test_the_transcript_has_the_commands_of_readme_and_tutorial_to_the_letter():
    typed = [command.line for command in commands(TRANSCRIPT.read_text(encoding="utf-8"))]
    for page in PAGES:
        for _, line in command_lines(page):
            assert line in typed, f"{page.name}: {line}"


@pytest.mark.slow
def test_a_fresh_clone_prints_the_transcript(tmp_path, shakespeare):
    clone, home = tmp_path / "jaxgpt", tmp_path / "home"
    run("git", "clone", "--quiet", ROOT, clone)
    fill_hub_cache(home / "hub", "openai-community/gpt2", context_length=64)
    text = write_text(clone / "my.txt").read_text()
    (clone / "my-texts").mkdir()
    (clone / "my-texts" / "one.txt").write_text(text)
    variables = environment(home, HF_HUB_CACHE=home / "hub", HF_HUB_OFFLINE=1, JAXGPT_SHAKESPEARE=shakespeare)
    terminal, shown = Terminal(clone, variables), []
    try:
        for command in commands(TRANSCRIPT.read_text(encoding="utf-8")):
            before, interrupted, after = command.output.partition("^C\n")
            seen = terminal.run(command.line, interrupt_after=before.rsplit("...")[-1] if interrupted else None)
            wrong = difference(before + after if interrupted else before, seen)
            shown.append(f"$ {command.line}\n{seen}")
            assert wrong is None, "".join(shown) + "\n" + wrong
    finally:
        terminal.close()
