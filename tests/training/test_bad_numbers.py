"""A run whose numbers go wrong stops, leaves the update out, or goes back: as the config says."""

import jax.numpy as jnp
import pytest

from jaxgpt.training import loop, trainer
from tests.runs import jaxgpt, lines, steps_saved, write_text

FLAGS = ("--model.num-layers", "1", "--eval-every", "4", "--sample-tokens", "0", "--steps", "12")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Train with batches that spoil the loss, by their numbers; tells the outcome and the batches that were read."""

    def trained(*flags: str, spoilt: set[int]):
        step, batch, read = trainer.Trainer.step, trainer.Trainer.batch, []

        def noted(self, number):
            read.append(number)
            return batch(self, number)

        def spoiling(self, state, tokens):
            state, metrics = step(self, state, tokens)
            if read[-1] in spoilt:
                metrics = metrics._replace(loss=jnp.float32(jnp.nan), nonfinite_or_spike=jnp.bool(True))
            return state, metrics

        monkeypatch.setattr(trainer.Trainer, "step", spoiling)
        monkeypatch.setattr(trainer.Trainer, "batch", noted)
        text = write_text(tmp_path / "text.txt")
        outcome = jaxgpt("train", "tiny", *FLAGS, *flags, "--data.source", text, "--run", tmp_path / "run")
        return outcome, read

    return trained


def test_by_default_it_stops_and_keeps_the_last_good_checkpoint(run, tmp_path):
    outcome, _ = run(spoilt={5})
    assert outcome.code == 2
    assert "loss is nan at step 6: training stopped, and no checkpoint was made of this" in outcome.err
    assert "--on-nonfinite skip or rewind" in outcome.err
    assert steps_saved(tmp_path / "run") == [4]


def test_rewinding_goes_back_to_the_checkpoint_and_past_the_batches_since(run, tmp_path):
    outcome, read = run("--on-nonfinite", "rewind", spoilt={5})
    assert outcome.code == 0, outcome
    assert "loss is nan at step 6: back to step 4, past 2 batches" in outcome.out
    # Batch 6 was under way when the loss of batch 5 was fetched; after step 4 the next is batch 6.
    assert read == [*range(7), *range(6, 14)]
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(13))
    assert [line["data_offset"] for line in lines(tmp_path / "run")[1:]] == 4 * [0] + 8 * [2]
    resumed = jaxgpt("train", "--resume", tmp_path / "run", "--steps", 14)
    assert resumed.code == 0, resumed


def test_a_second_bad_batch_before_the_next_save_passes_over_both(run, tmp_path):
    outcome, read = run("--on-nonfinite", "rewind", "--eval-every", "8", spoilt={9, 11})
    assert outcome.code == 0, outcome
    assert "loss is nan at step 10: back to step 8, past 2 batches" in outcome.out
    assert read == [*range(11), 10, 11, 12, *range(12, 16)]
    assert lines(tmp_path / "run")[-1]["data_offset"] == 4


def test_rewinding_needs_a_checkpoint_to_go_back_to(run):
    outcome, _ = run("--on-nonfinite", "rewind", spoilt={1})
    assert outcome.code == 2
    assert "loss is nan at step 2" in outcome.err


def test_rewinding_ends_where_it_does_not_help(run):
    outcome, read = run("--on-nonfinite", "rewind", spoilt=set(range(5, 1000)))
    assert outcome.code == 2
    assert outcome.out.count("back to step 4") == loop.MAX_ROLLBACKS
    assert len(read) < 100
