"""Fine-tuning: settings follow from the text, the held-back loss falls, training stops in time, the best is kept."""

import dataclasses

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxgpt
from converters import save_pretrained
from jaxgpt.errors import UserError
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.parallel.mesh import make_mesh, one_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.early_stop import EarlyStop
from jaxgpt.training.finetune import Text, activation_bytes, fit_settings
from jaxgpt.training.state import abstract_batch, abstract_state
from jaxgpt.training.step import compile_step
from tests.runs import QUICK

GPT2 = TrainConfig(model=jaxgpt.GPTConfig.preset("gpt2"))
LONG = Text(400_000, 40_000)


@pytest.mark.parametrize("train", [2_000, 50_000, 10**6, 10**9])
@pytest.mark.parametrize("devices", [1, 8])
def test_the_steps_read_the_text_as_often_as_was_asked(train, devices):
    mesh = make_mesh(data=devices, devices=jax.devices()[:devices])
    config = fit_settings(GPT2, Text(train, train // 9 + 1025), epochs=3, memory=None, mesh=mesh)
    times = config.steps * config.batch_size * 1024 / train
    assert config.batch_size % devices == 0
    assert times == pytest.approx(3, rel=0.2) or config.steps == 1
    assert 1 <= config.eval_every <= config.steps


def test_what_is_set_by_hand_stays_and_the_rest_follows():
    given = dataclasses.replace(GPT2, batch_size=10, optimizer=dataclasses.replace(GPT2.optimizer, learning_rate=1.0))
    config = fit_settings(
        given, LONG, epochs=2, memory=None, by_hand={"batch_size", "optimizer.learning_rate", "eval_every"}
    )
    assert (config.batch_size, config.optimizer.learning_rate, config.eval_every) == (10, 1.0, GPT2.eval_every)
    assert config.steps == round(2 * 400_000 / 1024 / 10)


def test_adapters_learn_at_ten_times_the_rate_of_all_weights():
    rates = [
        fit_settings(dataclasses.replace(GPT2, lora=lora), LONG, epochs=1, memory=None).optimizer.learning_rate
        for lora in (None, 16)
    ]
    assert rates == [5e-5, 5e-4]


def test_a_batch_comes_in_pieces_where_the_memory_is_small():
    room = 3 * 124_475_904 * 4 + 124_475_904 * 4  # weights, Adam's means, gradients
    for rows in (16, 4, 1):
        memory = int((room + (rows + 0.5) * activation_bytes(GPT2.model)) / 0.7)
        config = fit_settings(GPT2, LONG, epochs=1, memory=memory)
        assert config.batch_size // config.microbatches == rows


@pytest.mark.slow
def test_the_estimate_of_the_memory_is_that_of_the_compiled_program_within_a_factor_of_two():
    model = jaxgpt.GPTConfig(vocab_size=64, context_length=128, num_layers=8, num_heads=4, d_model=128)
    needed = []
    for rows in (8, 16):
        config = TrainConfig(model=model, batch_size=rows)
        shapes = abstract_state(config, one_device()), abstract_batch(config, one_device())
        needed.append(memory_needed(compile_step(config, one_device(), *shapes, options=QUICK)[0]))
    assert 0.5 < (needed[1] - needed[0]) / (8 * activation_bytes(model)) < 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (Text(7_000, 780), "780 of them held back for validation, and the model reads 1,024 at a time"),
        (Text(7_000, 780), "a shorter context: --model.context-length 512"),
        (Text(40, 4), "give a text of about"),
    ],
)
def test_a_text_shorter_than_a_context_is_refused_with_the_cure(text, words):
    with pytest.raises(UserError, match=words):
        fit_settings(GPT2, text, epochs=3, memory=None)


def test_reading_a_text_a_thousand_times_is_refused():
    config = dataclasses.replace(GPT2, steps=600_000)
    with pytest.raises(UserError, match="would read this text .* times, which learns it by heart"):
        fit_settings(config, LONG, epochs=3, memory=None, by_hand={"steps"})


def other_text(seed):
    """Words of one alphabet in another order for each seed, so that a model has to learn which follows which."""
    random = np.random.default_rng(seed)
    follows = random.permutation(20)
    tokens = [0]
    for _ in range(4000):
        tokens.append(int(follows[tokens[-1]]) if random.random() < 0.9 else int(random.integers(20)))
    return tokens


def train(tokens, folder, **changes):
    """A short run on one device."""
    settings = {"learning_rate": 3e-3, "warmup_steps": 2, "batch_size": 8, "eval_batches": 4} | changes
    return jaxgpt.train("tiny", data=tokens, folder=folder, mesh=one_device(), quiet=True, **settings)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a model that has learned one text, with the architecture of transformers' GPT-2."""
    folder = tmp_path_factory.mktemp("finetune")
    save_pretrained(train(other_text(0), folder / "run", steps=60).model, folder / "hf", "gpt2")
    return folder / "hf"


@pytest.mark.parametrize(("lora", "rate"), [(None, 3e-3), pytest.param(8, 2e-2, marks=pytest.mark.slow)])
def test_the_held_back_loss_of_a_new_text_falls(pretrained, tmp_path, lora, rate):
    model = jaxgpt.load(pretrained)
    result = train(other_text(1), tmp_path / "run", model=model, steps=40, lora=lora, learning_rate=rate)
    losses = [line["val_loss"] for line in result.history if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.5


def test_training_stops_where_the_held_back_loss_rises_and_keeps_the_best(pretrained, tmp_path):
    """The training text and the held-back text contradict each other, so that learning one unlearns the other."""
    tokens = other_text(1)[:900] + other_text(0)[:100]
    settings = {"eval_every": 2, "patience": 3, "model": jaxgpt.load(pretrained), "keep_checkpoints": 1}
    result = train(tokens, tmp_path / "run", steps=200, **settings)
    losses = {line["step"]: line["val_loss"] for line in result.history if "val_loss" in line}
    last, lowest = max(losses), min(losses, key=losses.get)
    assert last == lowest + 3 * 2 < 200
    best = min(set(losses) - {0}, key=losses.get)  # the weights it began with are no checkpoint of this run
    assert {int(path.name) for path in (tmp_path / "run/checkpoints").iterdir()} == {best, last}
    assert not np.array_equal(jaxgpt.load(tmp_path / "run", step="best").embed, result.model.embed)


def test_a_resumed_run_counts_the_validations_before(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "val_loss": 2.0}\n{"step": 2, "val_loss": 1.0}\n{"step": 4, "val_loss": 1.5}\n{"step": 5}\n'
        '{"step": 6, "val_loss": null}\n{"step": 8, "val_loss": 1.2}\n'
    )
    trainer = type("Trainer", (), {"run": type("Run", (), {"folder": tmp_path})})
    answers = [EarlyStop(patience, Console(quiet=True))(8, {"val_loss": 1.2}, None, trainer) for patience in (2, 3)]
    assert answers == ["stop", None]
    assert EarlyStop(1, Console(quiet=True))(8, {}, None, trainer) is None


def test_without_a_file_of_metrics_a_run_goes_on(tmp_path):
    trainer = type("Trainer", (), {"run": type("Run", (), {"folder": tmp_path})})
    assert EarlyStop(1, Console(quiet=True))(8, {"val_loss": 1.2}, None, trainer) is None
