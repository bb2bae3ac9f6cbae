import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data import eval_batches, prepare
from jaxgpt.evaluation.evaluate import evaluate, split_tokens
from jaxgpt.model.gpt import abstract_model
from tests.variants import BASELINE, loud, text

TOKENS = text(BASELINE, length=1000, batch=1)[0].astype(np.uint16)


def test_a_model_that_knows_nothing_finds_all_tokens_equally_likely():
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_model(BASELINE))
    found = evaluate(nothing, TOKENS, bytes_per_token=4.0)
    assert found.loss == pytest.approx(math.log(BASELINE.vocab_size), rel=1e-6)
    assert found.perplexity == pytest.approx(BASELINE.vocab_size, rel=1e-5)
    assert found.bits_per_byte == pytest.approx(math.log2(BASELINE.vocab_size) / 4, rel=1e-6)


def test_the_loss_is_the_mean_over_windows_that_cover_the_text():
    model = loud(BASELINE)
    found = evaluate(model, TOKENS, 1.0)
    windows = eval_batches(TOKENS, 8, BASELINE.context_length, 3).reshape(-1, BASELINE.context_length + 1)
    logits = np.asarray(model(jnp.asarray(windows[:, :-1])), np.float64)
    likely = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -np.take_along_axis(likely, windows[:, 1:, None], axis=-1).mean()
    assert found.loss == pytest.approx(expected, abs=1e-5)
    assert found.tokens == windows[:, 1:].size
    assert found.tokens > 0.75 * len(TOKENS)


def test_a_hopeless_loss_does_not_overflow(monkeypatch):
    monkeypatch.setattr("jaxgpt.evaluation.evaluate.mean_loss", lambda *_: 1e4)
    assert math.isfinite(evaluate(abstract_model(BASELINE), TOKENS, 1.0).perplexity)


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="the text has 32 tokens"):
        evaluate(abstract_model(BASELINE), TOKENS[:32], 1.0)


def test_the_parts_of_a_corpus_have_their_own_bytes(tmp_path):
    # The training part is plain ASCII, a byte to a token; the held-back tenth has two bytes to a token.
    (tmp_path / "text.txt").write_text("abcdefghi" * 20 + "é" * 20)
    data = prepare(str(tmp_path / "text.txt"), "char")
    train, held_back, both = (split_tokens(data, part) for part in ("train", "validation", "all"))
    assert [bytes_per_token for _, bytes_per_token in (train, held_back, both)] == [1.0, 2.0, 1.1]
    np.testing.assert_array_equal(both[0], np.concatenate([train[0], held_back[0]]))
    np.testing.assert_array_equal(held_back[0], data.validation)
