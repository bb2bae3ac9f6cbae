"""README.txt of a run folder."""

import re
import shlex

import jaxgpt
from jaxgpt.cli import COMMANDS
from jaxgpt.parallel.mesh import one_device

IDS = list(range(20)) * 40


def test_it_names_every_file_and_commands_that_there_are(tmp_path):
    folder = tmp_path / "a run"
    result = jaxgpt.train("tiny", data=IDS, folder=folder, steps=2, mesh=one_device(), quiet=True)
    text = (folder / "README.txt").read_text()
    for path in folder.iterdir():
        assert path.name == "README.txt" or path.name.startswith(("events", ".")) or path.name in text
    commands = [shlex.split(line) for line in re.findall(r"^    (jaxgpt .*)$", text, re.MULTILINE)]
    assert [words[1] for words in commands] == ["train", "generate", "evaluate", "convert"]
    assert all(words[1] in COMMANDS and str(folder) in words for words in commands)
    assert "2 steps of 8 x 32 tokens on an array of 800 token ids" in text
    assert result.run.folder == folder
