"""Training that starts from other weights, or learns from another model, through the command line."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgpt as package
from converters import save_pretrained
from converters.adapt import model_from_parameters
from jaxgpt.config import GPTConfig
from jaxgpt.data import Batches
from jaxgpt.model.loss import distillation_loss
from jaxgpt.model.parameters import named_parameters
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.run import read_run
from tests.commands.test_cli import one_line
from tests.runs import assert_same_run, jaxgpt, lines, steps_saved, write_text

FLAGS = ("--steps", 4, "--eval-every", 2, "--keep-checkpoints", 5, "--sample-tokens", 0)
VARIANT = ("--model.position", "rotary", "--model.num-kv-heads", 2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("uptraining")


@pytest.fixture(scope="module")
def text(base):
    return write_text(base / "text.txt")


@pytest.fixture(scope="module")
def hf_folder(base):
    """A random GPT-2 with the tokens of the text, as transformers writes it."""
    pytest.importorskip("torch", reason="transformers writes this model with it, and it is not installed")
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 65, "n_positions": 32, "n_layer": 1, "n_head": 4, "n_embd": 32}
    config = transformers.GPT2Config(**sizes, initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(base / "hf")
    return base / "hf"


@pytest.fixture(scope="module", params=["HF folder", pytest.param("run folder", marks=pytest.mark.slow)])
def source(request):
    return request.getfixturevalue("hf_folder" if request.param == "HF folder" else "trained")


@pytest.fixture(scope="module")
def variant(source, text, base):
    """The run of a variant of the source."""
    return trained_on(text, base / f"variant of {source.name}", "--init", source, *VARIANT)


@pytest.fixture(scope="module")
def student(source, text, base):
    """The same, with the source as its teacher."""
    return trained_on(text, base / f"student of {source.name}", "--init", source, "--distill", source, *VARIANT)


def trained_on(text, folder, *flags):
    """The folder of a run of four steps, all of whose checkpoints are kept."""
    outcome = jaxgpt("train", "tiny", *FLAGS, "--data.source", text, "--run", folder, *flags)
    assert outcome.code == 0, outcome
    return folder


def resumed_after(step, whole, folder):
    """A copy of a run without its checkpoints past a step, resumed."""
    shutil.copytree(whole, folder)
    for later in range(step + 2, 6, 2):
        shutil.rmtree(folder / "checkpoints" / str(later))
    outcome = jaxgpt("train", "--resume", folder)
    assert (outcome.code, outcome.err) == (0, "")
    assert ("starting from the weights of" if step == 0 else f"resuming after step {step}") in outcome.out
    return folder


def parameters_at(folder, step):
    run = read_run(folder)
    with Checkpoints(run.checkpoints) as checkpoints:
        return named_parameters(checkpoints.restore_model(run.config, step))


def test_a_variant_starts_from_the_weights_that_loading_gives(source, variant):
    expected = package.load(source, position="rotary", num_kv_heads=2)
    assert read_run(variant).config.model == expected.config
    assert steps_saved(variant) == [0, 2, 4]
    found = parameters_at(variant, 0)
    assert found.keys() == named_parameters(expected).keys()
    for name, value in named_parameters(expected).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert all((found[name] != value).any() for name, value in parameters_at(variant, 4).items())


@pytest.mark.parametrize("step", [0, 2])
def test_a_run_from_other_weights_goes_on_to_the_bit_and_reads_them_no_more(variant, tmp_path, monkeypatch, step):
    monkeypatch.setattr("jaxgpt.loading.load", None)
    assert_same_run(resumed_after(step, variant, tmp_path / "run"), variant)


def test_a_run_that_starts_from_a_run_reads_its_text(trained, tmp_path):
    outcome = jaxgpt("train", "tiny", "--init", trained, "--steps", 0, "--sample-tokens", 0, "--run", tmp_path / "run")
    assert outcome.code == 0, outcome
    assert read_run(tmp_path / "run").config.data == read_run(trained).config.data


def test_a_student_loses_what_divides_it_from_its_teacher(source, student):
    teacher, start = package.load(source), package.load(source, position="rotary", num_kv_heads=2)
    run = read_run(student)
    batch = Batches(run.data().train, run.config.batch_size, 32, run.config.seed)(0)
    expected = float(jax.jit(distillation_loss)(start, batch, None, teacher))
    assert expected > 0.01
    assert lines(student)[1]["loss"] == pytest.approx(expected, rel=1e-4)


def test_a_student_goes_on_learning_from_its_teacher(student, tmp_path):
    assert_same_run(resumed_after(2, student, tmp_path / "run"), student)


def test_a_student_that_starts_as_its_teacher_has_nothing_to_learn(trained, text, tmp_path):
    folder = trained_on(text, tmp_path / "run", "--init", trained, "--distill", trained)
    assert abs(lines(folder)[1]["loss"]) < 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 97}, "has 97 tokens and the model 65; distillation needs the same vocabulary"),
        ({"vocab_size": 65, "context_length": 16}, "more than context_length=16"),
    ],
)
def test_a_teacher_that_cannot_read_what_the_student_reads_is_refused(text, tmp_path, fields, message):
    zeros = model_from_parameters(
        GPTConfig.preset("tiny", num_layers=1, **fields), lambda _, like: jnp.zeros(like.shape)
    )
    save_pretrained(zeros, tmp_path / "teacher")
    flags = ("--data.source", text, "--distill", tmp_path / "teacher", "--run", tmp_path / "run")
    assert message in one_line("train", "tiny", *flags)
    assert not (tmp_path / "run").exists()
