"""`jaxgpt finetune`, from a Hugging Face folder to a model that is converted."""

import numpy as np
import pytest

import jaxgpt as package
from converters import save_pretrained
from jaxgpt.data import CharTokenizer
from jaxgpt.loading import write_tokenizer_files
from jaxgpt.training.run import read_run
from tests.commands.test_cli import one_line
from tests.runs import jaxgpt, write_text


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_text(tmp_path_factory.mktemp("text") / "my.txt")


@pytest.fixture(scope="module")
def source(text, tmp_path_factory):
    """A random GPT-2 as an HF folder, with the tokenizer of the text's characters."""
    from flax import nnx

    folder = tmp_path_factory.mktemp("source")
    tokenizer = CharTokenizer("".join(sorted(set(text.read_text()))))
    config = package.GPTConfig.preset("tiny", vocab_size=tokenizer.vocab_size, num_layers=1)
    draft = folder / "tokenizer"
    draft.mkdir()
    write_tokenizer_files(tokenizer, draft, config.context_length)
    save_pretrained(package.GPT(config, rngs=nnx.Rngs(0)), folder / "hf", "gpt2", tokenizer=draft)
    return folder / "hf"


@pytest.fixture(scope="module")
def tuned(source, text, tmp_path_factory):
    """What the command printed, and the run's folder."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    flags = ("--steps", 6, "--eval-every", 3, "--eval-batches", 2, "--sample-tokens", 8, "--lora", 4)
    outcome = jaxgpt("finetune", source, "--data.source", text, "--run", folder, *flags)
    assert outcome.code == 0, outcome
    return outcome.out, folder


def test_it_tells_its_settings_and_shows_the_same_prompt_before_and_after(tuned, text):
    told, folder = tuned
    assert "tune    adapters of rank 4 of" in told
    assert "tokens are read 0." in told
    assert "3 in a row without a new best end the run" in told
    samples = [path.read_text() for path in sorted((folder / "samples").iterdir())]
    assert len(samples) == 2
    prompt = read_run(folder).config.sample_prompt
    assert prompt in text.read_text()
    assert all(sample.startswith(prompt) for sample in samples)
    assert told.count(prompt) >= 2


def test_its_last_lines_are_commands_that_run(tuned, tmp_path):
    told, folder = tuned
    assert f"jaxgpt generate {folder}" in told
    base = read_run(folder).config
    assert (base.lora, base.steps, base.patience) == (4, 6, 3)
    assert jaxgpt("generate", folder, "--step", "best", "--prompt", "ab", "--max-new-tokens", 3).code == 0
    assert jaxgpt("convert", folder, tmp_path / "hf", "--step", "best").code == 0
    merged = package.load(tmp_path / "hf")
    found = package.load(folder, step="best")
    assert (merged.blocks[0].mlp.up.kernel[...] == found.blocks[0].mlp.up.kernel[...]).all()


def test_its_adapters_are_written_for_peft_and_merge_to_the_same_model(tuned, source, tmp_path):
    _, folder = tuned
    assert jaxgpt("convert", folder, tmp_path / "adapter", "--architecture", "peft", "--step", "best").code == 0
    merged, found = package.load(tmp_path / "adapter"), package.load(folder, step="best")
    np.testing.assert_allclose(merged.blocks[0].attn.key.kernel, found.blocks[0].attn.key.kernel, atol=1e-7)
    message = one_line("convert", source, tmp_path / "other", "--architecture", "peft")
    assert "is no run with adapters" in message


def test_it_goes_on_by_train_resume(tuned):
    _, folder = tuned
    outcome = jaxgpt("train", "--resume", folder, "--steps", 8, "--sample-tokens", 0)
    assert outcome.code == 0, outcome
    assert "resuming after step 6" in outcome.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "the text to learn is not named: --data.source my.txt"),
        (("--data.source", "TEXT", "--epochs", 0), "epochs=0.0 must be above 0"),
        (("--data.source", "TEXT", "--lr", 1e-4), "use --optimizer.learning-rate"),
        (("--data.source", "TEXT", "--steps", 10**6), "which learns it by heart"),
        (("--data.source", "SHORT"), "held back for validation, and the model reads 32 at a time"),
    ],
    ids=["no text", "no epochs", "another tool's flag", "a thousand times", "short"],
)
def test_what_cannot_go_well_is_one_message(source, text, tmp_path, flags, words):
    (tmp_path / "short.txt").write_text(text.read_text()[:200])
    named = {"TEXT": text, "SHORT": tmp_path / "short.txt"}
    flags = [named.get(flag, flag) for flag in flags]
    assert words in one_line("finetune", source, *flags, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()
