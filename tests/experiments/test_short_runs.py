"""Every experiment, made so small that it takes seconds: it runs to its end, resumes, and its page can be drawn."""

import dataclasses
import json
from html.parser import HTMLParser

import pytest

from experiments import costs, optimizers, parallel, pretrained, report, short_run, summary, uptrain, variants, window
from jaxgpt.config import GPTConfig
from jaxgpt.training.config import DataConfig, TrainConfig
from tests.runs import QUICKLY, quick_compilation, write_text

MODEL = GPTConfig(vocab_size=65, context_length=16, num_layers=1, num_heads=2, d_model=16)


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """The CPU size is a second's work on a text of its own, and its programs are compiled once for all tests."""
    data = DataConfig(str(write_text(tmp_path / "text.txt")), "char")
    config = TrainConfig(model=MODEL, data=data, steps=4, batch_size=4, eval_every=2, eval_batches=1)
    monkeypatch.setitem(variants.SIZES, "cpu", variants.Size(config, (1,), window=4, decode_rows=1))
    monkeypatch.setattr(short_run, "keep_programs", lambda: None)
    for module in (variants, uptrain):
        monkeypatch.setattr(module, "SHAKESPEARE", data)
    with quick_compilation():
        yield


@pytest.fixture
def some(monkeypatch):
    """Two of the variants, for their time."""

    def two(*arguments):
        found = costs.variants(*arguments)
        return {name: found[name] for name in ("baseline", "windowed")}

    monkeypatch.setattr(variants, "variants", two)


def small(module, tmp_path, **changes):
    arguments = module.Arguments(results=tmp_path / "results", **changes)
    if hasattr(arguments, "runs"):
        arguments = dataclasses.replace(arguments, runs=tmp_path / "runs")
    return module.main(arguments)


@pytest.mark.slow
@pytest.mark.usefixtures("some")
def test_variants_go_on_where_they_stopped_and_give_the_same(tmp_path, capsys, monkeypatch):
    first = small(variants, tmp_path, seeds=2, rounds=1)
    assert first["variants"]["baseline"]["against_baseline"]["difference"] == 0
    assert len(first["variants"]["windowed"]["losses"]) == 2
    (tmp_path / "runs" / "variants-cpu" / "windowed-1.json").unlink()
    trained, speeds = [], {name: first["variants"]["baseline"][name] for name in ("train_speed", "decode_speed")}
    monkeypatch.setattr(variants, "speeds", lambda *_: speeds)  # once is enough
    usual = short_run.train
    monkeypatch.setattr(short_run, "train", lambda config, data: trained.append(config.seed) or usual(config, data))
    again = small(variants, tmp_path, seeds=2, rounds=1)
    assert trained == [1]
    assert again["variants"]["windowed"]["losses"] == pytest.approx(first["variants"]["windowed"]["losses"], rel=1e-4)


def test_a_curve_begins_before_the_first_update_and_ends_after_the_last(tmp_path):
    from jaxgpt.data import prepare

    config = variants.SIZES["cpu"].config
    data = prepare(config.data.source, "char")
    model, curve = short_run.train(config, data)
    assert curve["tokens"] == [0, 2 * 64, 4 * 64]
    held_back = short_run.eval_batches(data.validation, 16, 16, 1)
    assert curve["validation"][-1] == pytest.approx(short_run.losses_by_position(model, held_back).mean(), rel=1e-6)
    again, _ = short_run.train(dataclasses.replace(config, steps=0), data, start=model)
    assert short_run.losses_by_position(again, held_back) == pytest.approx(
        short_run.losses_by_position(model, held_back)
    )


@pytest.mark.slow
def test_uptraining_starts_where_the_conversion_leaves_the_model(tmp_path, monkeypatch):
    def one(baseline):
        return {
            "unchanged": {},
            "grouped": {"num_kv_heads": 1},
            "grouped, first": {"num_kv_heads": 1, "kv_init": "first"},
        }

    monkeypatch.setattr(uptrain, "conversions_of", one)
    monkeypatch.setattr(uptrain, "ranking", lambda found: {})
    result = small(uptrain, tmp_path, seeds=1, steps=2, baseline_steps=4)
    rows = result["rows"]
    assert rows["unchanged, text"]["at_once"] == result["baseline_loss"]
    assert rows["grouped, text"]["at_once"] == rows["grouped, distilled"]["at_once"] != result["baseline_loss"]


def test_a_cache_with_a_window_does_not_grow_and_a_full_one_does(tmp_path, monkeypatch):
    usual = {name: window.backends()[name] for name in ("full, xla", "window 256, banded")}
    monkeypatch.setattr(window, "backends", lambda: usual)
    monkeypatch.setattr(window, "MODEL", dataclasses.replace(MODEL, num_heads=4, position="rotary"))
    result = small(window, tmp_path, longest=2048, longest_run=0)
    full, banded = result["rows"]["full, xla"], result["rows"]["window 256, banded"]
    assert full[1]["cache_megabytes"] == 2 * full[0]["cache_megabytes"]
    assert banded[1]["cache_megabytes"] == banded[0]["cache_megabytes"] == full[0]["cache_megabytes"] / 4
    assert banded[1]["step_temporary_megabytes"] < 2.2 * banded[0]["step_temporary_megabytes"]
    assert full[1]["step_temporary_megabytes"] > 3 * full[0]["step_temporary_megabytes"]


def test_a_full_cache_is_that_of_a_text_which_leaves_room_for_what_is_timed():
    config = dataclasses.replace(MODEL, context_length=64, position="rotary", window=8)
    cache = window.full_cache(config)
    assert cache.length.tolist() == [48]
    assert cache.layers[0].key.shape == cache.layers[0].value.shape == (1, 8, 2, 8)


@pytest.mark.slow
def test_two_processes_train_as_one_device_does(monkeypatch):
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name.upper(), str(value))  # for processes of their own
    config = dataclasses.replace(variants.SIZES["cpu"].config, batch_size=8)
    alone = parallel.trained(dataclasses.replace(config, mesh=parallel.MODES["one device"]))
    together = parallel.trained_together(dataclasses.replace(config, mesh=parallel.MODES["hybrid, 2 x 4"]))
    assert together["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert together["wire_bytes_per_step"] == pytest.approx(together["wire_bytes_by_formula"], rel=1e-3, abs=100)


@pytest.mark.slow
def test_a_model_trained_here_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "CONVERSIONS", ("windowed",))
    result = small(pretrained, tmp_path, steps=2, uptraining_steps=1, documents=3, prompts=("a",), new_tokens=4)
    first, *others = result["models"].values()
    assert first["samples"]["a"].startswith("a")
    assert (first["difference"], first["difference_se"], len(others)) == (0, 0, 1)
    assert all(row["bits_per_byte"] > 0 and row["difference_se"] >= 0 for row in others)


class Reader(HTMLParser):
    """What a page asks for, and what is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.asked, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.asked += [values[name] for name in ("src", "href", "srcset") if values.get(name)]
        self.ids += [values["id"]] if "id" in values else []


def test_the_page_of_the_committed_results_needs_nothing_from_outside(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("vl_convert")
    from experiments.charts import charts
    from experiments.page import page
    from experiments.sections import sections

    found = report.results()
    text = page(report.TITLE, sections(found))
    read = Reader(text)
    assert all(link.startswith(("data:", "#")) for link in read.asked)
    assert {chart.name for chart in charts(found)} <= set(read.ids)
    assert len(text) < 1_000_000
    for number in ("−786,432", "−9,449,472"):
        assert number in text[: text.index("<h2")]


def test_the_page_of_the_experiments_says_what_the_results_say():
    text = summary.PAGE.read_text()
    assert summary.written(text, report.results()) == text


def test_kept_runs_of_another_config_are_not_used(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"config": {"seed": 1}}))
    from jaxgpt.data import prepare

    config = variants.SIZES["cpu"].config
    found = variants.kept_run(tmp_path, "a", config, prepare(config.data.source, "char"))
    assert found["config"]["steps"] == 4


@pytest.mark.slow
def test_both_optimizers_are_tuned_and_trained_and_what_is_kept_is_not_done_again(tmp_path, monkeypatch):
    usual, trained = short_run.train, []
    monkeypatch.setattr(short_run, "train", lambda config, data: trained.append(config.seed) or usual(config, data))
    monkeypatch.setattr(optimizers, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(optimizers, "shortened", lambda _: variants.SIZES["cpu"].config)
    result = small(optimizers, tmp_path, presets=("quickstart",), seeds=2, rounds=1)
    assert trained == 2 * [optimizers.TUNED_WITH, optimizers.TUNED_WITH, 0, 1]
    for row in result["presets"]["quickstart"]["optimizers"].values():
        assert row["trials"][f"{row['learning_rate']:g}"] == min(row["trials"].values())
        assert row["loss"] == pytest.approx(sum(row["losses"]) / 2)
    adamw = result["presets"]["quickstart"]["optimizers"]["adamw"]
    assert adamw["tokens_to_target"] == pytest.approx(4 * 4 * 16)
    small(optimizers, tmp_path, presets=("quickstart",), seeds=2, rounds=1)
    assert len(trained) == 8
