import dataclasses
import math
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data import TokenData, prepare
from jaxgpt.data.tokens import Tokens
from jaxgpt.errors import UserError
from jaxgpt.evaluation.evaluate import evaluate, ratio_error, split_tokens
from jaxgpt.evaluation.scoring import document_windows, rolling_loglikelihood
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import abstract_model
from tests.variants import BASELINE, loud, text

TOKENS = text(BASELINE, length=1000, batch=1)[0].astype(np.uint16)


def test_a_model_that_knows_nothing_finds_all_tokens_equally_likely():
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_model(BASELINE))
    found = evaluate(nothing, TOKENS, bytes_per_token=4.0)
    assert found.loss == pytest.approx(math.log(BASELINE.vocab_size), rel=1e-6)
    assert found.perplexity == pytest.approx(BASELINE.vocab_size, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(math.log2(BASELINE.vocab_size) / 4, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 8, 32, "auto"])
def test_every_token_is_predicted_once_whatever_the_batch_size(batch_size):
    model, tokens = loud(BASELINE), TOKENS[: 15 * 32 + 9]
    found = evaluate(model, tokens, 1.0, batch_size)
    assert found.tokens == len(tokens) - 1
    (total,) = rolling_loglikelihood(model, [tokens], batch_size=3)
    assert found.loss == pytest.approx(-total / (len(tokens) - 1), rel=1e-6)


def test_a_stride_gives_more_context_and_predicts_as_many_tokens():
    model = loud(BASELINE)
    found = evaluate(model, TOKENS[:200], stride=7)
    (total,) = rolling_loglikelihood(model, [TOKENS[:200]], stride=7)
    assert (found.tokens, found.bits_per_byte) == (199, None)
    assert found.loss == pytest.approx(-total / 199, rel=1e-6)


def test_a_few_windows_are_spread_over_the_text():
    model = loud(BASELINE)
    found = evaluate(model, TOKENS, 1.0, max_windows=2)
    starts = [0, len(document_windows(BASELINE, [TOKENS])[0]) // 2 * 32]
    totals = rolling_loglikelihood(model, [TOKENS[start : start + 33] for start in starts])
    assert found.loss == pytest.approx(-sum(totals) / 64, rel=1e-6)


def test_the_standard_error_is_that_of_a_mean_where_groups_are_equal():
    losses, counts = np.array([1.0, 2.0, 4.0, 7.0]) * 5, np.full(4, 5)
    assert ratio_error(losses, counts) == pytest.approx(np.std([1, 2, 4, 7], ddof=1) / 2)
    assert ratio_error(losses[:1], counts[:1]) is None


def test_a_hopeless_loss_does_not_overflow():
    hopeless = jax.tree.map(lambda leaf: 1e4 * leaf, loud(BASELINE))
    found = evaluate(hopeless, TOKENS[:40])
    assert found.loss > 710
    assert math.isfinite(found.perplexity)


def test_a_token_outside_the_vocabulary_is_refused():
    with pytest.raises(UserError, match="holds token 61, which is not in the model's vocabulary of 61"):
        evaluate(loud(BASELINE), np.arange(62))


def test_the_parts_of_a_corpus_have_their_own_bytes(tmp_path):
    # The training part is plain ASCII, a byte to a token; the held-back tenth has two bytes to a token.
    (tmp_path / "text.txt").write_text("abcdefghi" * 20 + "é" * 20)
    data = prepare(str(tmp_path / "text.txt"), "char")
    train, held_back, both = (split_tokens(data, part) for part in ("train", "validation", "all"))
    assert [bytes_per_token for _, bytes_per_token in (train, held_back, both)] == [1.0, 2.0, 1.1]
    np.testing.assert_array_equal(both[0], np.concatenate([train[0], held_back[0]]))
    np.testing.assert_array_equal(held_back[0], data.validation)


def test_documents_are_read_alone_where_a_token_begins_them():
    model, tokens = loud(BASELINE), TOKENS[:32].copy()
    tokens[[0, 3, 4, 31]] = 60
    found = evaluate(model, tokens, end_of_text=60)
    expected = next_token_loss(model, jnp.asarray(tokens[None].astype(np.int32)), end_of_text=60)
    assert (found.tokens, found.loss) == (31, pytest.approx(float(expected), rel=1e-5))
    assert evaluate(model, TOKENS[:9], end_of_text=61) == evaluate(model, TOKENS[:9])  # no document ends there


def test_a_split_on_the_disk_is_evaluated_from_there(tmp_path):
    parts = []
    for name in "ab":
        with (tmp_path / name).open("wb") as file:
            file.truncate(3 * 10**7)
        parts.append(np.memmap(tmp_path / name, np.uint16, "r"))
    splits = {split: {"bytes": 1, "tokens": 1} for split in ("train", "validation")}
    data = TokenData(Tokens(parts), parts[0], None, {"splits": splits})
    model = loud(dataclasses.replace(BASELINE, context_length=1024))
    evaluate(model, parts[0][:3000], max_windows=2)  # compiled
    tracemalloc.start()
    found = evaluate(model, split_tokens(data, "train")[0], max_windows=2)
    assert found.tokens == 2048
    assert tracemalloc.get_traced_memory()[1] < 30e6
    tracemalloc.stop()
    assert evaluate(model, split_tokens(data, "all")[0], max_windows=2) == found
