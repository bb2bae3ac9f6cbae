"""What version 0.1 wrote still opens, and goes on to the same numbers."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt as package
from jaxgpt.training.run import read_run
from tests.conftest import ROOT
from tests.runs import jaxgpt, lines, write_text

FIXTURES = ROOT / "tests" / "fixtures"


def expected(name: str) -> dict:
    return json.loads((FIXTURES / f"{name}-expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path):
    """A copy of the run, which finds its text beside it."""
    folder = shutil.copytree(FIXTURES / "run-of-0.1", tmp_path / "run")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["config"]["data"]["source"] = str(write_text(tmp_path / "text.txt"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["run-of-0.1", "gpt2-of-0.1"])
def test_a_folder_of_version_0_1_opens_as_the_same_model(name):
    model = package.load(FIXTURES / name)
    np.testing.assert_allclose(model(jnp.arange(12)[None])[0, -1], expected(name)["logits"], atol=1e-5)


def test_a_run_of_version_0_1_goes_on_to_the_losses_it_would_have_had(run):
    outcome = jaxgpt("train", "--resume", run, "--steps", 20)
    assert outcome.code == 0, outcome
    assert "resuming after step 12" in outcome.out
    found = [[line[name] for name in ("step", "loss", "grad_norm", "learning_rate")] for line in lines(run)[12:]]
    np.testing.assert_allclose(found, expected("run-of-0.1")["steps"], rtol=1e-6)
    assert read_run(run).config.steps == 20
