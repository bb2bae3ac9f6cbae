"""Command lines as people type them: presets anywhere, flags of other tools, settings in files, help on one screen."""

import json
import re
import subprocess

import pytest

from jaxgpt.cli import COMMANDS
from jaxgpt.commands.flags import flags_of, refuse_foreign, take_name
from jaxgpt.commands.foreign_flags import FOREIGN
from jaxgpt.commands.train import Arguments
from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.config_file import dump_config, read_config_file
from jaxgpt.training.override import override
from jaxgpt.training.presets import PRESETS
from jaxgpt.training.trainer import default_folder
from tests.runs import jaxgpt

FLAGS = flags_of(Arguments)


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        ("tiny --steps 3", "tiny"),
        ("--steps 3 tiny", "tiny"),
        ("--steps=3 tiny", "tiny"),
        ("--run tiny --steps 3", None),
        ("tinny", "tinny"),  # which is refused by its name
        ("--steps 3 tinny", "tinny"),
        ("--mesh.allow-idle tiny", "tiny"),
        ("--data.no-block-shuffle tiny", "tiny"),
        ("--model.window 64 None tiny", "tiny"),
        ("--data.mixture a=1 tiny", "tiny"),
        ("--optimizer.final_learning_rate -1 --steps 3", None),
    ],
)
def test_a_preset_may_stand_anywhere_among_flags(words, preset):
    flags = words.split()
    rest = [word for word in flags if word != preset]
    assert (take_name(flags, FLAGS, PRESETS), flags) == (preset, rest)


def test_two_presets_are_refused():
    with pytest.raises(UserError, match="tiny and gpt2: give one preset"):
        take_name(["tiny", "--steps", "3", "gpt2"], FLAGS, PRESETS)


@pytest.mark.parametrize(
    ("word", "use"),
    [
        ("--lr=3e-4", "use --optimizer.learning-rate"),
        ("--n_layer", "use --model.num-layers"),
        ("--per_device_train_batch_size", "use --batch-size"),
        ("-o", "use --run"),
        ("--window", "use --model.window"),  # the end of one of ours
        ("--bf16", "use --model.dtype bfloat16"),
        ("--compile", "every program is compiled"),
    ],
)
def test_a_flag_of_another_tool_names_ours(word, use):
    with pytest.raises(UserError, match=f"there is no {word.partition('=')[0]} here: {use}"):
        refuse_foreign([word], FLAGS, FOREIGN)


def test_what_foreign_flags_are_told_to_use_is_there():
    told = {flag for ours in FOREIGN.values() for flag in re.findall(r"--[\w.-]+", ours)}
    assert told <= FLAGS.keys()
    assert not FOREIGN.keys() & FLAGS.keys()
    refuse_foreign(FLAGS, FLAGS, FOREIGN)  # none of ours is foreign


def test_help_is_one_screen_that_names_every_preset_and_only_flags_that_are_there():
    shown = jaxgpt("train", "--help").out
    lines = shown.splitlines()
    assert len(lines) <= 23  # of 24, one is the prompt
    assert max(map(len, lines)) <= 80
    assert all(re.search(rf"\b{preset}\b", shown) for preset in PRESETS)
    assert set(re.findall(r"--[a-z][\w.-]*", shown)) - {"--help-all"} <= FLAGS.keys()


def test_printed_settings_are_read_back_as_they_were(tmp_path):
    flags = ("--model.window", "4", "None", "--data.mixture", "a=1", "--optimizer.learning-rate", "1e-3")
    file = tmp_path / "mine.json"
    printed = jaxgpt("train", "tiny", *flags, "--print-config")
    file.write_text(printed.out)
    assert jaxgpt("train", "--config", file, "--print-config") == printed
    again = json.loads(jaxgpt("train", "--config", file, "--steps", "7", "--print-config").out)
    assert again == json.loads(printed.out) | {"steps": 7}


def test_a_file_of_settings_changes_the_preset_it_names(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "tiny"\nlearning-rate = 1e-3\n[model]\nnum_kv_heads = 2\nwindow = [8, "None"]\n')
    preset, fields = read_config_file(file)
    found = override(TrainConfig.preset(preset), fields)
    assert found.optimizer.learning_rate == 1e-3
    assert (found.model.num_kv_heads, found.model.window) == (2, (8, None))
    assert found == TrainConfig.from_dict(json.loads(dump_config(found, None)))


def test_the_config_of_a_run_is_a_file_of_settings(trained):
    config = TrainConfig.from_dict(json.loads((trained / "config.json").read_text())["config"])
    for path in (trained, trained / "config.json"):
        assert override(TrainConfig(), read_config_file(path).fields) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stepps = 3", "'stepps' is no field of TrainConfig; did you mean steps?"),
        ("[model]\nwindou = 3", "'model.windou' is no field of TrainConfig; did you mean model.window"),
        ("steps = 'x'", "steps='x' must be a whole number"),
        ("steps 3", "is neither JSON nor TOML: Expected '='"),
        ('{"steps": 3', "is neither JSON nor TOML: Expecting"),
        ("preset = 'tinny'", "there is no preset 'tinny'; did you mean 'tiny'?"),
        ("preset = 3", "preset=3 must be the name of a preset"),
    ],
)
def test_a_wrong_file_of_settings_is_one_message(content, message, tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text(content)
    outcome = jaxgpt("train", "--config", file, "--print-config")
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_the_environment_says_where_runs_go(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXGPT_RUNS", str(tmp_path / "elsewhere"))
    assert default_folder("tiny").parent == tmp_path / "elsewhere"
    assert f"there is no run below {tmp_path}" in jaxgpt("runs", tmp_path).err


COMPLETE = """
complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_jaxgpt jaxgpt "${@: -1}"; echo "${COMPREPLY[*]}"; }
complete_words jaxgpt ""
complete_words jaxgpt train tiny --model.num-k
"""


def test_completion_knows_every_command_and_flag(tmp_path):
    outcome = jaxgpt("completion", "bash")
    assert (outcome.code, outcome.err) == (0, "")
    script = tmp_path / "completion.bash"
    script.write_text(outcome.out + COMPLETE)
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=True)
    commands, flag = done.stdout.splitlines()
    assert set(commands.split()) - {"-h", "--help"} == set(COMMANDS)
    assert flag == "--model.num-kv-heads"
