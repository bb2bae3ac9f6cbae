"""The scripts of docs/examples run, with few steps on a small text, and learn."""

import dataclasses
import importlib.util
import math

import jax
import pytest
from flax import nnx

import jaxgpt
from converters import save_pretrained
from tests.conftest import ROOT
from tests.runs import quick_compilation, write_text

FOLDER = ROOT / "docs" / "examples"


@pytest.fixture
def text(tmp_path):
    return str(write_text(tmp_path / "text.txt"))


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


def test_each_has_at_most_forty_lines():
    assert len(list(FOLDER.glob("*.py"))) == 5
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 40 for path in FOLDER.glob("*.py"))


def test_a_plain_optax_loop(text, monkeypatch):
    small = jaxgpt.GPTConfig.preset("tiny", num_layers=1, d_model=8, num_heads=2)
    monkeypatch.setattr(jaxgpt.GPTConfig, "preset", lambda name, **changes: dataclasses.replace(small, **changes))
    assert example("one_device").main(12, text) < math.log(430) - 0.1  # tokens of the text


def test_fsdp_with_a_loss_of_ones_own(text):
    assert example("fsdp_own_loss").main(12, text) < math.log(65) - 0.1


@pytest.mark.slow
def test_muon(text, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    assert example("muon").main(12, text, str(tmp_path / "run")) < math.log(65) - 0.2


@pytest.mark.slow
def test_fine_tuning_stops_early_and_saves_the_best(text, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    config = jaxgpt.GPTConfig(context_length=16, num_layers=1, d_model=8, num_heads=2)
    save_pretrained(jaxgpt.GPT(config, rngs=nnx.Rngs(0)), tmp_path / "gpt2")
    settings = {"batch_size": 2, "eval_every": 2, "eval_batches": 1, "learning_rate": 1e-9}
    module = example("finetune")
    module.StopEarly.__init__.__defaults__ = (1,)
    loss = module.main(str(tmp_path / "gpt2"), text, str(tmp_path / "run"), 40, **settings)
    assert loss == pytest.approx(math.log(50257), abs=0.1)
    assert jaxgpt.load(tmp_path / "run" / "best").config == config


@pytest.mark.slow
def test_a_sweep_plots_its_curves(text, tmp_path, monkeypatch):
    on_one_device(monkeypatch)
    assert example("sweep").main(6, text, str(tmp_path / "sweep"), (1e-3, 1e-2)) < math.log(65)
    assert (tmp_path / "sweep" / "curves.png").stat().st_size > 1000


def on_one_device(monkeypatch):
    """`jaxgpt.train` on the first device alone: batches of four rows do not fill eight."""
    usual = jaxgpt.train
    mesh = jaxgpt.make_mesh(data=1, devices=jax.devices()[:1])
    monkeypatch.setattr(jaxgpt, "train", lambda *given, **named: usual(*given, mesh=mesh, **named), raising=False)
