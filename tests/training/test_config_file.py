"""Whatever stands in a run's config.json: the run, or one error for people, at once."""

import copy
import json
import random
from pathlib import Path

import pytest

from jaxgpt.data import CharTokenizer
from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.run import Run, read_run

RECORD = {
    "jaxgpt_run": 1,
    "id": "0" * 32,
    "config": TrainConfig.preset("tiny").to_dict(),
    "from_python": {"loss": "f"},
    "tokenizer": CharTokenizer("".join(map(chr, range(64, 64 + 65)))).spec(),
    "source_hash": "0" * 64,
}
LEFT_OUT = object()
HOSTILE = [
    None, True, -1, 0, 1.5, 2**31 - 1, 10**30, -(10**30), float("inf"), float("nan"), "", "x", "\0", "\ud800",
    [], [None], ["x", 3], {}, {"x": 1}, {"name": "char"}, {"name": ["char"]}, "9" * 500, LEFT_OUT,
]  # fmt: skip


def paths(value: object, at: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else ()
    return [at, *(path for key, each in inner for path in paths(each, (*at, key)))]


CASES = [(path, value) for path in paths(RECORD)[1:] for value in HOSTILE]


def changed(path: tuple, value: object) -> dict:
    record = copy.deepcopy(RECORD)
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    if value is LEFT_OUT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return record


def read(folder: Path, content: str) -> str:
    """The message that refuses it; empty where it is a run."""
    (folder / "config.json").write_text(content)
    try:
        assert isinstance(read_run(folder), Run)
    except UserError as error:
        return str(error)
    return ""


def check(folder: Path, cases: list) -> None:
    for path, value in cases:
        message = read(folder, json.dumps(changed(path, value)))
        assert len(message) < 1000, (path, value)
        assert "\n" not in message, (path, value)


def test_a_wrong_value_anywhere_is_one_message(tmp_path):
    assert read(tmp_path, json.dumps(RECORD)) == ""
    check(tmp_path, random.Random(0).sample(CASES, 60))


@pytest.mark.slow
def test_every_wrong_value_in_every_place_is_one_message(tmp_path):
    check(tmp_path, CASES)


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "3", "[" * 100_000, '{"jaxgpt_run":' * 100_000, '{"jaxgpt_run": 1', '{"jaxgpt_run": 1}', "{}"],
    ids=lambda content: content[:20],
)
def test_what_is_no_run_is_one_message(content, tmp_path):
    assert read(tmp_path, content)
    deep = json.dumps(RECORD).replace('"f"', "[" * 100_000 + "]" * 100_000)
    assert read(tmp_path, deep)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("config", "model", "num_layers"), 2**31 - 1, "num_layers=2147483647 is too large: at most 10000"),
        (("config", "model", "d_model"), 2**31 - 1, "d_model=2147483647 is not a multiple of num_heads=4; use one of"),
        (("config", "batch_size"), "4", "batch_size='4' must be a whole number"),
        (("config", "steps"), None, "steps=None must be a whole number"),
        (("config", "optimizer", "beta1"), [0.9], "beta1=[0.9] must be a number"),
    ],
)
def test_the_message_names_the_field_its_value_and_the_rule(path, value, message, tmp_path):
    assert message in read(tmp_path, json.dumps(changed(path, value)))
