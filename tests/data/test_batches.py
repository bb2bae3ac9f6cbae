import numpy as np
import pytest

from jaxgpt.data import Batches, eval_batches

TOKENS = np.arange(1000, dtype=np.uint16)  # a token is its own position


def starts(batches: Batches, first: int, count: int) -> list[int]:
    """Where `count` rows start in the text, from row number `first` on."""
    return [int(batches._rows[i][0]) for i in range(first, first + count)]


def test_a_batch_depends_on_seed_and_step_alone():
    one, other = (Batches(TOKENS, 4, 8, seed=3) for _ in range(2))
    forwards = [one(step) for step in range(40)]
    backwards = [other(step) for step in reversed(range(40))]
    np.testing.assert_array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("changed", [{"seed": 4}, {"step": 1}])
def test_another_seed_or_step_is_another_batch(changed):
    asked = {"seed": 3, "step": 0}
    one, other = (Batches(TOKENS, 4, 8, seed=a["seed"])(a["step"]) for a in (asked, asked | changed))
    assert (one != other).any()


def test_a_row_is_text_in_order():
    batch = Batches(TOKENS, 4, 8, seed=0)(5)
    assert (batch.shape, batch.dtype) == ((4, 9), np.int32)
    np.testing.assert_array_equal(np.diff(batch), 1)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_has_every_window_exactly_once(epoch):
    batches = Batches(TOKENS, 4, 8, seed=0)
    seen = sorted(starts(batches, epoch * batches.windows, batches.windows))
    np.testing.assert_array_equal(np.diff(seen), 8)
    assert seen[0] < 8
    assert len(TOKENS) - (seen[-1] + 9) < 16


def test_epochs_differ_in_order_and_in_cuts():
    batches = Batches(TOKENS, 4, 8, seed=0)
    epochs = [starts(batches, epoch * batches.windows, batches.windows) for epoch in range(12)]
    assert len({tuple(np.argsort(epoch)) for epoch in epochs}) == 12
    assert len({min(epoch) for epoch in epochs}) > 4


def test_every_token_of_the_text_is_used():
    batches = Batches(TOKENS[:12], 2, 4, seed=0)
    assert {int(token) for step in range(25) for token in batches(step).ravel()} == set(range(12))


def test_rows_of_a_host_are_rows_of_the_batch():
    batches = Batches(TOKENS, 8, 8, seed=0)
    np.testing.assert_array_equal(batches(3, rows=slice(2, 5)), batches(3)[2:5])


def test_batch_size_does_not_change_the_order_of_rows():
    small, large = Batches(TOKENS, 4, 8, seed=0), Batches(TOKENS, 8, 8, seed=0)
    np.testing.assert_array_equal(np.concatenate([small(2), small(3)]), large(1))


@pytest.mark.parametrize("length", [9, 10, 15, 16, 17])
def test_the_shortest_texts_give_whole_rows(length):
    for step in range(5):
        np.testing.assert_array_equal(np.diff(Batches(TOKENS[:length], 4, 8, seed=0)(step)), 1)


@pytest.mark.parametrize("make", [lambda t: Batches(t, 4, 8, seed=0), lambda t: eval_batches(t, 4, 8, 2)])
def test_a_text_shorter_than_one_example_is_refused(make):
    with pytest.raises(ValueError, match=r"has 8 tokens.*context_length \+ 1 = 9.*shorter context"):
        make(TOKENS[:8])


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_fixed_batches_are_spread_evenly_and_do_not_overlap(count):
    batches = eval_batches(TOKENS, 4, 8, count)
    assert batches.shape == (min(count, 31), 4, 9)
    assert batches.dtype == np.int32
    first = batches[..., 0].ravel()
    assert (first[0], batches[-1, -1, -1]) == (0, 999)
    assert np.ptp(np.diff(first)) <= 1
    assert np.diff(first).min() >= 8


def test_fixed_batches_of_a_short_text_are_full():
    batches = eval_batches(TOKENS[:20], 4, 8, 5)
    assert batches.shape == (1, 4, 9)
    np.testing.assert_array_equal(np.diff(batches), 1)
