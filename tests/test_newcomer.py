"""What a stranger does tonight: the wheel alone, in an empty environment and folder."""

import subprocess
import sys

import pytest

from tests.documents import ROOT
from tests.newcomer import environment


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
