"""Several documents in one row: each is read as if it were alone."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.model.inputs import check_segment_ids
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.ops.attention import blocked, blocked_loop
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS, each_variant, forward, loud, text

END = 0
LENGTHS = (5, 1, 11, 2, 5)  # 24 tokens in all; one document longer than two blocks and than the window
SEGMENTS = jnp.repeat(jnp.arange(len(LENGTHS)), np.array(LENGTHS))[None]


@pytest.fixture(params=["xla", "blocked", "blocked, looped"])
def attention(request, monkeypatch):
    """A backend; blocks have 8 queries, so that documents end within them."""
    for module in (blocked, blocked_loop):
        monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(blocked, "MAX_BLOCKS", 0 if request.param == "blocked, looped" else 32)
    return request.param.partition(",")[0]


def documents(config):
    """A row of documents that begin with <|endoftext|>."""
    tokens = text(config)[:1] % (config.vocab_size - 1) + 1
    tokens[0, np.cumsum((0, *LENGTHS[:-1]))] = END
    return jnp.asarray(tokens)


def split(row):
    return jnp.split(row, np.cumsum(LENGTHS)[:-1], axis=1)


def padded(row):
    """Each document in a row of its own; what follows it there is not seen, since the future is not."""
    return np.concatenate([np.pad(each, ((0, 0), (0, max(LENGTHS) - each.shape[1]))) for each in split(row)])


@each_variant
def test_packed_documents_are_read_as_if_each_were_alone(config, attention):
    model = loud(dataclasses.replace(config, attention=attention))
    tokens = documents(config)
    packed = quick(model.__call__)(tokens, None, SEGMENTS)
    for logits, expected in zip(split(packed), forward(loud(config), padded(tokens)), strict=True):
        np.testing.assert_allclose(logits[0], expected[: logits.shape[1]], atol=5e-5, rtol=0)


def loss_of_third(model, tokens, key=None):
    """The loss of the third document alone, in a row of them."""
    logits = model(tokens, key, jnp.broadcast_to(SEGMENTS, tokens.shape))
    third = slice(LENGTHS[0] + LENGTHS[1], sum(LENGTHS[:3]))
    return -jax.nn.log_softmax(logits)[:, third][..., 7].sum()


def test_a_document_and_its_gradients_do_not_depend_on_its_neighbours(attention):
    model = loud(dataclasses.replace(VARIANTS["all"], attention=attention, scan_layers=True, dropout=0.3))
    tokens = documents(BASELINE)
    others = jnp.where(SEGMENTS == 2, tokens, (tokens + 7) % BASELINE.vocab_size)
    of = quick(jax.value_and_grad(partial(loss_of_third, key=jax.random.key(1))))
    for ours, theirs in zip(*map(jax.tree.leaves, (of(model, tokens), of(model, others))), strict=True):
        if ours.ndim and ours.shape[0] == model.config.padded_vocab_size:  # rows of tokens that one of both lacks
            continue
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("window", [3, 40])
@pytest.mark.parametrize("attention", ["banded", "blocked"])
def test_a_window_ends_with_its_document(attention, window):
    configs = [dataclasses.replace(VARIANTS["all"], window=window, attention=name) for name in (attention, "xla")]
    tokens = jnp.concatenate([documents(BASELINE)] * 2)
    segments = jnp.concatenate([SEGMENTS, SEGMENTS[:, ::-1]])  # rows with documents of their own
    ours, plain = (
        quick(jax.value_and_grad(lambda model: (model(tokens, None, segments) ** 2).mean()))(loud(config))
        for config in configs
    )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def test_a_row_of_one_document_is_the_plain_model():
    model, tokens = loud(VARIANTS["all"]), jnp.asarray(text(BASELINE))
    np.testing.assert_array_equal(forward(model, tokens), model(tokens, None, jnp.full_like(tokens, 5)))


def test_every_token_is_predicted_from_its_own_document_alone():
    """The first word from <|endoftext|>, <|endoftext|> from the document that it ends: no target is left out."""
    model, tokens = loud(BASELINE), documents(BASELINE)
    losses, starts = [], np.cumsum((0, *LENGTHS))
    for start, length, alone in zip(starts, LENGTHS, jax.nn.log_softmax(forward(model, padded(tokens)))):
        losses += [-float(alone[at, target]) for at, target in enumerate(tokens[0, start + 1 : start + length + 1])]
    assert len(losses) == sum(LENGTHS) - 1
    loss = quick(partial(next_token_loss, end_of_text=END))(model, tokens)
    np.testing.assert_allclose(float(loss), np.mean(losses), rtol=1e-5)
    assert abs(float(quick(next_token_loss)(model, tokens)) - float(loss)) > 0.01


def test_a_teacher_reads_documents_alone_too():
    student, teacher, tokens = loud(BASELINE), loud(VARIANTS["grouped"]), documents(BASELINE)
    loss = quick(partial(distillation_loss, end_of_text=END))(student, tokens, None, teacher)
    segments, inputs = SEGMENTS[:, :-1], tokens[:, :-1]
    ours, theirs = (jax.nn.log_softmax(quick(model.__call__)(inputs, None, segments)) for model in (student, teacher))
    np.testing.assert_allclose(loss, (jnp.exp(theirs) * (theirs - ours)).sum(-1).mean(), rtol=1e-4)


def test_segment_ids_of_another_shape_are_refused():
    tokens = jnp.asarray(text(BASELINE))
    for wrong in (SEGMENTS, jnp.zeros(tokens.shape), [[1] * 24] * 2):
        with pytest.raises(UserError, match="the whole number of its document to each token"):
            check_segment_ids(tokens, wrong)
