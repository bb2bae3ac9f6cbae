"""Log-likelihoods beside float64 NumPy, and the laws that any way of computing them keeps."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgpt.errors import UserError
from jaxgpt.evaluation.scoring import loglikelihood, rolling_loglikelihood, score_windows
from jaxgpt.evaluation.windows import rolling_windows
from jaxgpt.model.parameters import named_parameters
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import shard
from tests import reference
from tests.variants import BASELINE, VARIANTS, each_variant, loud

LENGTH = BASELINE.context_length
rng = np.random.default_rng(0)
DOCUMENTS = [rng.integers(0, BASELINE.vocab_size, n) for n in (2, 33, 40, 70)]
CONTEXTS = [rng.integers(0, BASELINE.vocab_size, n) for n in (1, 7, 30, 32, 50, 3)]
CONTINUATIONS = [rng.integers(0, BASELINE.vocab_size, n) for n in (3, 1, 9, 32, 2, 12)]


def exact(config, text):
    """ln p of each token but the first, in float64."""
    parameters = named_parameters(loud(config))
    logits = reference.gpt(config, parameters, text[None, :-1])[0]
    logits -= logits.max(axis=-1, keepdims=True)
    likely = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return likely[np.arange(len(text) - 1), text[1:]], likely.argmax(axis=-1) == text[1:]


@each_variant
def test_continuations_agree_with_float64(config):
    found = loglikelihood(loud(config), CONTEXTS, CONTINUATIONS, batch_size=2)
    for score, context, continuation in zip(found, CONTEXTS, CONTINUATIONS, strict=True):
        text = np.concatenate([context, continuation])[-LENGTH - 1 :]
        logprobs, greedy = (values[-len(continuation) :] for values in exact(config, text))
        assert score.logprob == pytest.approx(logprobs.sum(), rel=1e-5, abs=1e-5)
        assert score.is_greedy == greedy.all()
        assert score.truncated == max(0, len(context) + len(continuation) - LENGTH - 1)


@each_variant
@pytest.mark.parametrize("stride", [None, 11])
def test_documents_of_any_length_agree_with_float64(config, stride):
    found = rolling_loglikelihood(loud(config), DOCUMENTS, stride=stride, batch_size=4)
    for total, text in zip(found, DOCUMENTS, strict=True):
        by_hand, done = 0.0, 0  # how many of the tokens after the first have been predicted
        while done < len(text) - 1:
            end = min(len(text) - 1, done + (LENGTH if done == 0 else stride or LENGTH))
            piece = text[max(0, end - LENGTH) : end + 1]
            by_hand += exact(config, piece)[0][done - end :].sum()
            done = end
        assert total == pytest.approx(by_hand, rel=1e-5, abs=1e-5)


def test_a_greedy_continuation_is_called_greedy():
    model, text = loud(BASELINE), CONTEXTS[1]
    best = int(np.asarray(model(jnp.asarray(text[None])))[0, -1].argmax())
    yes, no = loglikelihood(model, [text, text], [[best], [(best + 1) % BASELINE.vocab_size]])
    assert (yes.is_greedy, no.is_greedy) == (True, False)
    assert yes.logprob > no.logprob


@pytest.mark.parametrize("batch_size", [1, 3, 64, "auto"])
def test_neither_batch_size_nor_order_changes_a_score(batch_size):
    model = loud(VARIANTS["all"])
    expected = rolling_loglikelihood(model, DOCUMENTS, batch_size=2)
    found = rolling_loglikelihood(model, DOCUMENTS[::-1], batch_size=batch_size)[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8), (2, 4)])
def test_no_mesh_changes_a_score(data, fsdp):
    model = loud(BASELINE)
    spread = shard(model, MeshConfig(data=data, fsdp=fsdp).make())
    expected = rolling_loglikelihood(model, DOCUMENTS, batch_size=3)
    np.testing.assert_allclose(rolling_loglikelihood(spread, DOCUMENTS, batch_size=3), expected, rtol=1e-5)


def test_a_prefix_lets_the_first_token_be_predicted():
    model = loud(BASELINE)
    with_prefix = rolling_loglikelihood(model, [DOCUMENTS[3]], prefix=7)
    spelled_out = rolling_loglikelihood(model, [np.concatenate([[7], DOCUMENTS[3]])])
    assert with_prefix == spelled_out


def test_a_text_of_probabilities_sums_to_one():
    model, every = loud(BASELINE), [[token] for token in range(BASELINE.vocab_size)]
    found = loglikelihood(model, [CONTEXTS[1]] * len(every), every, batch_size=16)
    assert np.exp([score.logprob for score in found]).sum() == pytest.approx(1, abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 200), st.integers(1, 40), st.data())
def test_windows_predict_every_token_once_with_all_the_context_that_fits(count, length, data):
    stride = data.draw(st.integers(1, length))
    text = np.arange(count)
    predicted = []
    for tokens, first in rolling_windows(text, length, stride):
        assert len(tokens) <= length + 1
        assert len(tokens) == length + 1 or tokens[0] == 0
        assert first >= min(length - stride + 1, tokens[first])
        predicted.extend(tokens[first:])
    assert predicted == list(range(1, count))


def test_a_program_serves_many_lengths(monkeypatch):
    shapes = set()
    from jaxgpt.evaluation import scoring

    usual = scoring._score_batch
    monkeypatch.setattr(
        scoring, "_score_batch", lambda model, windows, *shape: shapes.add(shape[:3]) or usual(model, windows, *shape)
    )
    model = loud(BASELINE)
    windows = [w for n in range(2, 100) for w in rolling_windows(np.arange(n) % 61, LENGTH, LENGTH)]
    assert len(score_windows(model, windows, batch_size=8)) == len(windows)
    assert len(shapes) <= 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: loglikelihood(m, [[1]], [[61]]), r"continuations\[0\] holds token 61, which is not in .* of 61"),
        (lambda m: loglikelihood(m, [[1, -1]], [[6]]), r"contexts\[0\] holds token -1"),
        (lambda m: loglikelihood(m, [[1], []], [[6], [7]]), r"contexts\[1\] is empty: give at least one token"),
        (lambda m: loglikelihood(m, [[1]], [[]]), r"continuations\[0\] is empty"),
        (lambda m: loglikelihood(m, [[1]], []), "1 contexts and 0 continuations"),
        (lambda m: loglikelihood(m, [[1]], [[1] * 33]), r"has 33 tokens and context_length is 32"),
        (lambda m: loglikelihood(m, [np.array([1.5])], [[1]]), r"contexts\[0\] is not a list of token ids but float64"),
        (lambda m: rolling_loglikelihood(m, [[1]]), r"documents\[0\] has 1 tokens: nothing is left to predict"),
        (lambda m: rolling_loglikelihood(m, [[]], prefix=3), r"documents\[0\] has 0 tokens"),
        (lambda m: rolling_loglikelihood(m, [[1, 2]], stride=33), "stride=33 must be between 1 and context_length=32"),
        (lambda m: rolling_loglikelihood(m, [[1, 2]], stride=0), "stride=0 must be"),
        (lambda m: rolling_loglikelihood(m, [[1, 2]], batch_size=0), "batch_size=0 computes nothing"),
        (lambda m: rolling_loglikelihood(m, [[1, 2]], batch_size=10**9), "batch_size=1000000000 needs at least"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call(loud(BASELINE))
