import time

import jax
import numpy as np
import pytest

from jaxgpt.data import Batches, DeviceBatches, eval_batches, row_order
from jaxgpt.data.mixture import Mixture
from jaxgpt.data.tokens import Tokens
from jaxgpt.errors import UserError

TOKENS = np.arange(1003, dtype=np.uint16)  # a token is its own position


@pytest.fixture(params=["shuffled", "blocks"])
def order(request, monkeypatch):
    monkeypatch.setattr(row_order, "BLOCK_TOKENS", 40)
    monkeypatch.setattr(row_order, "BUFFER_BLOCKS", 3)
    return {"block_shuffle": request.param == "blocks"}


def targets(batches: Batches, first: int, count: int) -> np.ndarray:
    """How often each token was a target in so many rows."""
    rows = [batches.row(i)[1:] for i in range(first, first + count)]
    return np.bincount(np.concatenate(rows), minlength=len(batches.tokens))


def test_a_batch_depends_on_seed_and_step_alone(order):
    one, other = (Batches(TOKENS, 4, 8, seed=3, **order) for _ in range(2))
    forwards = [one(step) for step in range(40)]
    backwards = [other(step) for step in reversed(range(40))]
    np.testing.assert_array_equal(forwards, backwards[::-1])


@pytest.mark.parametrize("changed", [{"seed": 4}, {"step": 1}])
def test_another_seed_or_step_is_another_batch(changed, order):
    asked = {"seed": 3, "step": 0}
    one, other = (Batches(TOKENS, 4, 8, seed=a["seed"], **order)(a["step"]) for a in (asked, asked | changed))
    assert (one != other).any()


def test_a_row_is_text_in_order_round_a_ring(order):
    batch = Batches(TOKENS, 4, 8, seed=0, **order)(5)
    assert (batch.shape, batch.dtype) == ((4, 9), np.int32)
    np.testing.assert_array_equal(np.diff(batch) % len(TOKENS), 1)


@pytest.mark.parametrize("length", [9, 12, 64, 1000, 1003])
def test_an_epoch_predicts_every_token_once(length, order):
    """After n epochs each token was a target n times; once more or less where an epoch ends within a window."""
    batches, read = Batches(TOKENS[:length], 1, 8, seed=0, **order), np.zeros(length, int)
    for epoch in range(8):
        first, after = (-(-each * length // 8) for each in (epoch, epoch + 1))
        read += targets(batches, first, after - first)
        assert np.ptp(read) <= 1
        assert set(read) <= {epoch + 1, epoch + 2}
    assert set(read) == {8}


def test_epochs_differ_in_order_and_in_cuts(order):
    batches = Batches(TOKENS, 4, 8, seed=0, **order)
    starts = [[int(batches.row(i)[0]) for i in range(e * 125 + 1, e * 125 + 120)] for e in range(6)]
    assert len({tuple(np.argsort(epoch)) for epoch in starts}) == 6
    assert len({min(epoch) % 8 for epoch in starts}) > 3


def test_neighbours_of_the_text_are_not_neighbours_of_the_epoch(order):
    batches = Batches(TOKENS, 4, 8, seed=0, **order)
    starts = np.array([batches.row(i)[0] for i in range(125)])
    assert (np.diff(starts) == 8).mean() < 0.15
    assert len(set(starts)) == 125


def test_a_block_shuffle_reads_few_blocks_at_a_time(monkeypatch):
    monkeypatch.setattr(row_order, "BLOCK_TOKENS", 40)
    monkeypatch.setattr(row_order, "BUFFER_BLOCKS", 3)
    batches = Batches(TOKENS, 4, 8, seed=0, block_shuffle=True)
    for group in range(8):
        assert len({int(batches.row(i)[0]) // 40 for i in range(group * 15, group * 15 + 15)}) == 3


def test_rows_of_a_host_are_rows_of_the_batch(order):
    batches = Batches(TOKENS, 8, 8, seed=0, **order)
    np.testing.assert_array_equal(batches(3, rows=slice(2, 5)), batches(3)[2:5])


def test_batch_size_does_not_change_the_order_of_rows(order):
    small, large = Batches(TOKENS, 4, 8, seed=0, **order), Batches(TOKENS, 8, 8, seed=0, **order)
    np.testing.assert_array_equal(np.concatenate([small(2), small(3)]), large(1))


def test_how_many_files_hold_the_tokens_does_not_matter(order):
    whole = Batches(TOKENS, 8, 8, seed=0, **order)
    parts = Batches(Tokens(np.split(TOKENS, [1, 2, 3, 400, 400, 777])), 8, 8, seed=0, **order)
    for step in range(20):
        np.testing.assert_array_equal(whole(step), parts(step))


def test_the_order_of_version_0_1_is_kept_for_its_runs():
    """Numbers that version 0.1 gave."""
    assert Batches(TOKENS, 2, 8, seed=3, order="v0.1")(0)[:, 0].tolist() == [838, 246]
    assert Batches(TOKENS[:20], 2, 8, seed=0, order="v0.1")(7)[:, 0].tolist() == [4, 5]
    assert Batches(TOKENS, 2, 8, seed=5, order="v0.1")(200)[:, 0].tolist() == [951, 431]


@pytest.mark.parametrize("length", [9, 10, 15, 16, 17])
def test_the_shortest_texts_give_whole_rows(length, order):
    for step in range(5):
        np.testing.assert_array_equal(np.diff(Batches(TOKENS[:length], 4, 8, seed=0, **order)(step)) % length, 1)


@pytest.mark.parametrize("make", [lambda t: Batches(t, 4, 8, seed=0), lambda t: eval_batches(t, 4, 8, 2)])
def test_a_text_shorter_than_one_example_is_refused(make):
    with pytest.raises(UserError, match=r"has 8 tokens.*context_length \+ 1 = 9.*shorter context"):
        make(TOKENS[:8])


def test_a_token_beyond_the_vocabulary_is_refused_when_it_is_read():
    batches = Batches(TOKENS, 4, 8, seed=0, vocab_size=1000)
    with pytest.raises(UserError, match="hold token 100. near place.*the model has 1000"):
        np.stack([batches(step) for step in range(32)])


@pytest.mark.parametrize("weights", [(1,), (0.5, 0.5), (0.7, 0.3), (0.05, 0.9, 0.05), (5, 3, 1, 1, 1), (1, 999)])
def test_a_mixture_has_its_shares_within_one_row(weights):
    mixture = Mixture([(TOKENS, weight) for weight in weights])
    drawn = np.array([mixture.source_of(row)[0] for row in range(23_000)])
    counts = np.cumsum(drawn[:, None] == np.arange(len(weights)), axis=0)
    np.testing.assert_allclose(mixture.counts / 10_000, np.array(weights) / sum(weights), atol=1e-4)
    exact = np.arange(1, len(drawn) + 1)[:, None] * mixture.counts / 10_000
    assert np.abs(counts - exact).max() < 1


def test_each_source_of_a_mixture_has_its_own_epochs():
    sources = TOKENS[:100], TOKENS[200:500], TOKENS[600:1000]
    batches = Batches(Mixture(list(zip(sources, (0.2, 0.5, 0.3), strict=True))), 4, 10, seed=0)
    rows = np.stack([batches.row(i) for i in range(1000)])
    for tokens, share in zip(sources, (0.2, 0.5, 0.3), strict=True):
        own = rows[np.isin(rows[:, 0], tokens)]
        assert len(own) == 1000 * share
        per_epoch = len(tokens) // 10
        epochs = len(own) // per_epoch
        assert set(np.bincount(own[: epochs * per_epoch, 1:].ravel(), minlength=1003)[tokens]) == {epochs}


def test_a_mixture_is_no_one_text():
    with pytest.raises(UserError, match="name one of its sources"):
        np.asarray(Mixture([(TOKENS, 1), (TOKENS, 2)]))


def test_a_mixture_is_the_same_for_every_host():
    mixture = Mixture([(TOKENS[:500], 2), (TOKENS[500:], 1)])
    whole = Batches(mixture, 8, 8, seed=0)
    np.testing.assert_array_equal(whole(11)[4:], Batches(mixture, 8, 8, seed=0)(11, slice(4, 8)))


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_fixed_batches_are_spread_evenly_and_do_not_overlap(count):
    batches = eval_batches(TOKENS, 4, 8, count)
    assert batches.shape == (min(count, 31), 4, 9)
    assert batches.dtype == np.int32
    first = batches[..., 0].ravel()
    assert (first[0], batches[-1, -1, -1]) == (0, 1002)
    assert np.ptp(np.diff(first)) <= 1
    assert np.diff(first).min() >= 8


def test_fixed_batches_of_a_short_text_are_full():
    batches = eval_batches(TOKENS[:20], 4, 8, 5)
    assert batches.shape == (1, 4, 9)
    np.testing.assert_array_equal(np.diff(batches), 1)


class SlowBatches(Batches):
    """20 ms for each batch, as on a slow disk."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.read = set()

    def __call__(self, step, rows=slice(None)):
        time.sleep(0.02)
        found = super().__call__(step, rows)
        self.read.add(step)
        return found


def rows_over_devices(count):
    mesh = jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))


def test_batches_read_ahead_are_the_batches_in_any_order_of_asking():
    batches = Batches(TOKENS, 8, 8, seed=0)
    ahead = DeviceBatches(batches, (8, 9), rows_over_devices(4))
    for step in (0, 1, 2, 7, 8, 3, 3, 4):
        np.testing.assert_array_equal(ahead(step), batches(step))


def test_a_slow_disk_is_not_waited_for_once_reading_is_ahead():
    slow = SlowBatches(TOKENS, 8, 8, seed=0)
    ahead = DeviceBatches(slow, (8, 9), rows_over_devices(2))
    ahead(0)
    ready = []
    for step in range(1, 16):
        time.sleep(0.03)  # a step
        ready.append(step in slow.read)
        ahead(step)
    assert np.mean(ready) > 0.5  # on a busy machine a thread may be late now and then
