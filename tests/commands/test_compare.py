"""`jaxgpt compare` and `jaxgpt runs`."""

import json
import shutil

import pytest

from jaxgpt.commands.compare import config_changes
from tests.commands.test_cli import one_line, spelled
from tests.runs import STEPS, jaxgpt, lines


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Two runs: the trained one, and the same with another learning rate in its config."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = shutil.copytree(trained, folder / "one"), shutil.copytree(trained, folder / "deep" / "two")
    config = json.loads((two / "config.json").read_text())
    config["config"]["optimizer"]["learning_rate"] = 0.5
    (two / "config.json").write_text(json.dumps(config))
    return one, two


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_same_model_differs_by_nothing_and_the_configs_where_they_do(runs, tmp_path):
    found = jaxgpt("compare", *runs, "--output", tmp_path / "page", "--limit", "5", "--json")
    assert (found.code, found.err) == (0, "")
    result = json.loads(found.out)
    one, two = result["models"]
    assert (one["difference"], two["difference"], two["difference_error"]) == (None, 0, 0)
    assert one["standard_error"] > 0
    assert one["bits_per_byte"] == two["bits_per_byte"] > 0
    assert result["config"] == {"optimizer.learning_rate": ["0.003", "0.5"]}
    page = (tmp_path / "page" / "index.html").read_text()
    assert all(word in page for word in ("<svg", "optimizer.learning_rate", str(runs[1])))
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    assert (tmp_path / "page" / "loss.png").stat().st_size > 1000


def test_the_table_is_printed(runs):
    found = jaxgpt("compare", *runs, "--limit", "4")
    assert "+0.0000 ± 0.0000" in found.out
    assert "optimizer.learning_rate" in found.out


def test_fields_that_only_some_have_differ():
    assert config_changes([{"model": {"a": 1, "b": 2}, "seed": 3}, {"model": {"a": 1, "b": 5}}]) == {
        "model.b": ["2", "5"],
        "seed": ["3", ""],
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "1 sources cannot be compared: name at least two"),
        (("nowhere",), "nowhere"),
    ],
    ids=spelled,
)
def test_compare_refuses(runs, flags, message):
    assert message in one_line("compare", runs[0], *flags)


def test_runs_are_listed_by_their_files_alone(runs):
    folder = runs[0].parent
    metrics = folder / "deep" / "two" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 9')  # a line cut off by a kill
    found = jaxgpt("runs", folder, "--json")
    assert (found.code, found.err) == (0, "")
    listed = {run["run"]: run for run in json.loads(found.out)}
    assert set(listed) == set(map(str, runs))
    run = listed[str(runs[0])]
    losses = [line["val_loss"] for line in lines(runs[0]) if "val_loss" in line]
    assert (run["step"], run["steps"]) == (STEPS, STEPS)
    assert (run["val_loss"], run["best_val_loss"]) == (losses[-1], min(losses))
    assert run["model"] == "1 layers, width 32, context 32"
    assert run["bytes"] > 100_000
    assert f"{STEPS}/{STEPS}" in jaxgpt("runs", folder).out


def test_a_damaged_run_is_listed_as_such(runs, tmp_path):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"tokenizer": {"name": "none"}}))
    (run,) = json.loads(jaxgpt("runs", tmp_path, "--json").out)
    assert run["model"].startswith("damaged: tokenizer 'none'")


def test_where_there_is_no_run_it_is_said(tmp_path):
    assert f"there is no run below {tmp_path}" in one_line("runs", tmp_path)
    assert "nowhere is not a folder" in one_line("runs", "nowhere")
