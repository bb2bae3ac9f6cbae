"""Tokens as they are made, texts longer than the context, and what a row's text depends on."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.inference.generate import begin, generate, stream
from jaxgpt.inference.settings import Settings
from tests.variants import BASELINE, VARIANTS, forward, loud, text

QUICK = ("baseline", "all")
FREE = {"temperature": 1.5, "top_p": 0.9}


@pytest.mark.parametrize("settings", [{"temperature": 0}, FREE, {**FREE, "repetition_penalty": 1.3}], ids=str)
def test_a_stream_makes_what_generate_makes(settings):
    prompt = text(BASELINE, 4)[:1]
    expected = generate(loud(BASELINE), prompt, 25, seed=3, **settings)[0, 4:]
    assert list(stream(loud(BASELINE), prompt[0], 25, seed=3, **settings)) == expected.tolist()


def test_a_stream_gives_its_first_tokens_before_the_last_are_made():
    tokens = stream(loud(BASELINE), [1], 10**9, slide=True)
    assert len(list(itertools.islice(tokens, 100))) == 100


def test_a_stream_ends_before_its_stop_token():
    whole = list(stream(loud(BASELINE), [1, 2], 25, temperature=0))
    for stops in (whole[6], [whole[6], whole[9]]):
        first = min(whole.index(stop) for stop in np.atleast_1d(stops))
        assert list(stream(loud(BASELINE), [1, 2], 25, temperature=0, stop_token=stops)) == whole[:first]
    assert list(stream(loud(BASELINE), [1, 2], 0)) == []


def test_a_stream_refuses_when_it_is_called():
    with pytest.raises(UserError, match="a prompt is empty"):
        stream(loud(BASELINE), [], 5)
    with pytest.raises(UserError, match="slide=True"):
        stream(loud(BASELINE), [1], 500)


@pytest.mark.parametrize(
    "name", ["baseline", "all", *(pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS if name not in QUICK)]
)
def test_past_the_context_a_text_goes_on_from_its_last_half(name):
    """Each token is the likeliest after what is visible: all, and after the 32nd token the last half of it."""
    config = VARIANTS[name]
    model, prompt = loud(config), text(config, 13)[0]
    tokens = generate(model, [prompt], 60, temperature=0, slide=True)[0]
    start = 0
    for end in range(13, len(tokens)):
        if end - start == 32:
            start += 16
        visible = np.pad(tokens[start:end], (0, 32 - (end - start)))
        assert forward(model, visible[None])[0, end - start - 1].argmax() == tokens[end]


def test_a_prompt_of_the_whole_context_and_more_slides():
    prompt = text(BASELINE, 50)[0]
    last = generate(loud(BASELINE), [prompt[-16:]], 10, temperature=0)[0, 16:]
    for length in (50, 32):
        found = generate(loud(BASELINE), [prompt[-length:]], 10, temperature=0, slide=True)
        np.testing.assert_array_equal(found[0, -10:], last)


@pytest.mark.parametrize("settings", [{"temperature": 0}, FREE], ids=str)
@pytest.mark.parametrize("config", [BASELINE, VARIANTS["all"]], ids=["baseline", "all"])
def test_ragged_prompts_slide_as_if_alone(config, settings):
    model, lengths = loud(config), (3, 20, 32, 9, 31)
    prompts = [text(config, 40, seed=n)[0, :n] for n in lengths]
    together = generate(model, prompts, 40, seed=[5, 6, 7, 8, 9], slide=True, **settings)
    for row, prompt, seed in zip(together, prompts, (5, 6, 7, 8, 9), strict=True):
        alone = generate(model, [prompt], 40, seed=seed, slide=True, **settings)[0]
        np.testing.assert_array_equal(row[-40:], alone[-40:])


def test_a_seed_gives_a_text_at_every_position_and_size():
    model, prompt = loud(BASELINE), text(BASELINE, 5)[0]
    alone = generate(model, [prompt], 8, seed=5, **FREE)[0]
    for rows, at in ((2, 1), (3, 2), (5, 0)):
        seeds = [100 + i for i in range(rows)]
        seeds[at] = 5
        together = generate(model, [prompt] * rows, 8, seed=seeds, **FREE)
        np.testing.assert_array_equal(together[at], alone)
        assert len(np.unique(together, axis=0)) == rows
    two, five = (generate(model, [prompt] * rows, 8, seed=5, **FREE) for rows in (2, 5))
    np.testing.assert_array_equal(two, five[:2])
    unlike = generate(model, [prompt] * 2, 8, seed=[5 + 2**32, -5], **FREE)
    assert (unlike != alone).any(axis=1).all()
    with pytest.raises(UserError, match="2 seeds were given for 3 prompts"):
        generate(model, [prompt] * 3, 8, seed=[1, 2])


def test_settings_that_leave_nothing_out_change_nothing():
    prompt = text(BASELINE, 5)
    plain = generate(loud(BASELINE), prompt, 20)
    for settings in ({"top_k": 61}, {"top_k": 10**12}, {"top_p": 1.0}, {"min_p": 0}, {"top_k": 61, "top_p": 1}):
        np.testing.assert_array_equal(generate(loud(BASELINE), prompt, 20, **settings), plain)


def test_min_p_keeps_what_is_likely_relative_to_the_likeliest():
    prompt = np.tile(text(BASELINE, 7)[:1], (2000, 1))
    drawn = generate(loud(BASELINE), prompt, 1, temperature=2.0, min_p=0.2)[:, -1]
    odds = np.asarray(jax.nn.softmax(forward(loud(BASELINE), np.tile(prompt[:1], (2, 1)))[0, -1] / 2))
    assert set(drawn) == set(np.flatnonzero(odds >= 0.2 * odds.max()))


def test_a_penalty_on_repetition_forbids_at_its_limit():
    """A penalty so large makes a token that the text has the least likely, whatever its logit's sign."""
    prompt = text(BASELINE, 5)
    tokens = generate(loud(BASELINE), prompt, 20, temperature=0, repetition_penalty=1e6)
    logits = np.asarray(forward(loud(BASELINE), tokens))
    for row, scores in zip(tokens, logits, strict=True):
        for end in range(5, 25):
            seen = np.isin(np.arange(61), row[:end])
            left = np.where(seen, np.where(scores[end - 1] > 0, 0, -np.inf), scores[end - 1])
            assert row[end] == left.argmax() or left.max() <= 0


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 1e6}, {"temperature": 1e6, "top_k": 6}])
def test_rows_past_the_tokenizer_are_never_drawn(settings):
    tokens = generate(loud(BASELINE), text(BASELINE, 5, batch=40) % 7, 20, num_tokens=7, **settings)
    assert tokens.max() == 6


def test_log_probabilities_are_the_models():
    prompt = text(BASELINE, 5)
    texts = begin(loud(BASELINE), list(prompt), 20, Settings(**FREE), num_tokens=61)
    pieces = list(texts.pieces(8, logprobs=True))
    drawn = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *pieces)
    tokens = np.concatenate([prompt, drawn.token], axis=1)
    np.testing.assert_array_equal(tokens, generate(loud(BASELINE), prompt, 20, **FREE))
    scores = np.asarray(jax.nn.log_softmax(forward(loud(BASELINE), tokens), axis=-1))[:, 4:-1]
    np.testing.assert_allclose(drawn.logprob, np.take_along_axis(scores, drawn.token[..., None], -1)[..., 0], atol=2e-5)
    np.testing.assert_array_equal(drawn.top_tokens, np.argsort(-scores, axis=-1)[..., :5])
    np.testing.assert_allclose(drawn.top_logprobs, -np.sort(-scores, axis=-1)[..., :5], atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"min_p": 1.5}, "min_p=1.5"), ({"repetition_penalty": 0}, "repetition_penalty=0 must be above 0")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        jaxgpt.generate(loud(dataclasses.replace(BASELINE)), [[1]], 2, **settings)
