import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import UserError
from jaxgpt.inference.generate import generate
from jaxgpt.inference.sampling import top_k_mask, top_k_top_p_mask, top_p_mask
from tests.variants import BASELINE, VARIANTS, each_variant, forward, loud, text

TOGETHER = VARIANTS["all"]


def assert_greedy(model, tokens, start):
    """Every token from column `start` on is the likeliest one after those before it."""
    np.testing.assert_array_equal(exact(model, tokens).argmax(axis=-1)[:, start - 1 : -1], tokens[:, start:])


def exact(model, tokens):
    """Logits without a cache. The text is filled up to one shape, which no earlier token sees: fewer compilations."""
    rows, columns = tokens.shape
    return np.asarray(forward(model, np.pad(tokens, ((0, 2 - rows), (0, 24 - columns)))))[:rows, :columns]


@each_variant
def test_cached_generation_is_recomputation(config):
    prompt = 13  # longer than any window
    tokens = generate(loud(config), text(config, prompt), 24 - prompt, temperature=0)
    np.testing.assert_array_equal(tokens[:, :prompt], text(config, prompt))
    assert_greedy(loud(config), tokens, prompt)
    assert len(np.unique(tokens[:, prompt:])) > 2


@pytest.mark.parametrize("prompt", [1, 5, 6])
def test_a_prompt_around_the_window(prompt):
    tokens = generate(loud(TOGETHER), text(TOGETHER, prompt), 24 - prompt, temperature=0)
    assert_greedy(loud(TOGETHER), tokens, prompt)


@each_variant
def test_ragged_prompts_are_continued_as_if_alone(config):
    long = text(config, 13)
    prompts = [long[0].tolist(), long[1, :7].tolist()]
    together = generate(loud(config), prompts, 11, temperature=0)
    assert together.shape == (2, 24)
    for row, prompt in zip(together, prompts, strict=True):
        alone = row[None, 13 - len(prompt) :]
        np.testing.assert_array_equal(alone[0, : len(prompt)], prompt)
        np.testing.assert_array_equal(row[: 13 - len(prompt)], 0)
        assert_greedy(loud(config), alone, len(prompt))


def sample(**settings):
    """Many continuations by one token of one prompt, and the true logits."""
    prompt = np.tile(text(TOGETHER, 7)[:1], (4000, 1))
    drawn = generate(loud(TOGETHER), prompt, 1, **settings)[:, -1]
    scores = np.float64(exact(loud(TOGETHER), prompt[:1])[0, -1]) / settings["temperature"]
    odds = np.exp(scores - scores.max())
    return np.bincount(drawn, minlength=61) / 4000, odds / odds.sum()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_tokens_are_drawn_as_often_as_the_model_says(temperature):
    drawn, expected = sample(temperature=temperature)
    assert np.abs(drawn - expected).sum() < 0.12


def test_top_k_and_top_p_work_together():
    drawn, expected = sample(temperature=4.0, top_k=10, top_p=0.6)
    expected[np.argsort(expected)[:-10]] = 0
    expected = reference_nucleus(expected / expected.sum(), 0.6)
    assert set(np.flatnonzero(drawn)) == set(np.flatnonzero(expected))
    assert np.abs(drawn - expected).sum() < 0.08


def reference_nucleus(probability, p):
    kept, total = np.zeros_like(probability), 0.0
    for token in sorted(range(len(probability)), key=lambda token: -probability[token]):
        if total >= p:
            break
        kept[token], total = probability[token], total + probability[token]
    return kept / kept.sum()


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_the_nucleus_is_the_least_set_that_reaches_p(p):
    logits = 3 * np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    kept = np.asarray(jax.nn.softmax(top_p_mask(jnp.asarray(logits), np.full(50, p, np.float32)), axis=-1))
    for row, result in zip(logits.astype(np.float64), kept, strict=True):
        np.testing.assert_allclose(result, reference_nucleus(np.exp(row) / np.exp(row).sum(), p), atol=1e-5)


@pytest.mark.parametrize("few", [3, 9, 40])
def test_the_few_largest_decide_as_all_do(few, monkeypatch):
    """Rows of every kind: decided by few or not, by k, by p, by both or by neither."""
    logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=(80, 40)), jnp.float32)
    k, p = np.array([1, 2, 8, 9, 30, 39, 40, 10**9]).repeat(10), np.tile([1e-6, 0.3, 0.6, 0.9, 1.0], 16)
    expected = np.asarray(top_k_top_p_mask(logits, k, np.float32(p)))
    monkeypatch.setattr("jaxgpt.inference.sampling.FEW", few)
    by_few = jax.jit(lambda *given: top_k_top_p_mask(*given))
    np.testing.assert_array_equal(by_few(logits, k, np.float32(p)), expected)
    for row in range(80):
        found = by_few(logits[row : row + 1], k[row : row + 1], np.float32(p[row : row + 1]))
        np.testing.assert_array_equal(found[0], expected[row])
        odds = np.exp(np.float64(logits[row]))
        odds[np.argsort(-odds)[k[row] :]] = 0
        kept = np.ones(40, bool) if p[row] == 1 else reference_nucleus(odds / odds.sum(), p[row]) > 0
        np.testing.assert_array_equal(expected[row] > -np.inf, kept & (odds > 0))


def test_a_nucleus_of_everything_keeps_everything():
    logits = jnp.asarray(30 * np.random.default_rng(0).normal(size=(50, 4000)), jnp.float32)
    np.testing.assert_array_equal(top_p_mask(logits, np.ones(50, np.float32)), logits)


@pytest.mark.parametrize("k", [1, 3, 40, 99])
def test_top_k_keeps_the_k_likeliest(k):
    logits = np.random.default_rng(0).permuted(np.arange(80, dtype=np.float32).reshape(2, 40), axis=1)
    kept = np.asarray(top_k_mask(jnp.asarray(logits), np.full(2, k)))
    expected = np.where(np.argsort(np.argsort(-logits, axis=1), axis=1) < k, logits, -np.inf)
    np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1e-3},
        {"temperature": 2e-38},
        {"temperature": 1e-50},
        {"temperature": 3.0, "top_k": 1},
        {"temperature": 3.0, "top_p": 1e-6},
    ],
    ids=str,
)
def test_the_limits_are_greedy(settings):
    tokens = generate(loud(BASELINE), text(BASELINE, 13), 11, **settings)
    assert_greedy(loud(BASELINE), tokens, 13)


def test_a_seed_reproduces_and_rows_differ():
    same = np.tile(text(BASELINE, 5)[:1], (3, 1))
    first, again, other = (generate(loud(BASELINE), same, 8, temperature=4.0, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first[:, 5:], axis=0)) == 3
    shorter = generate(loud(BASELINE), same, 4, temperature=4.0, seed=0)
    np.testing.assert_array_equal(first[:, :9], shorter)


@pytest.mark.parametrize("temperature", [0, 1e6])
def test_the_padding_of_the_vocabulary_is_never_drawn(temperature):
    model = loud(BASELINE)
    model.norm.scale[...] = jnp.zeros(32)
    model.norm.bias[...] = jnp.ones(32)
    model.embed[...] = model.embed[...].at[:61].set(-10.0)  # every real token is less likely than a row of zeros
    assert generate(model, text(BASELINE, 5, batch=40), 9, temperature=temperature).max() < 61


def test_a_row_is_filled_after_its_stop_token():
    free = generate(loud(BASELINE), text(BASELINE, 13), 11, temperature=0)
    stop = int(free[0, 16])
    stopped = generate(loud(BASELINE), text(BASELINE, 13), 11, temperature=0, stop_token=stop)
    for before, after in zip(free[:, 13:], stopped[:, 13:], strict=True):
        hits = np.flatnonzero(before == stop)
        end = hits[0] if len(hits) else len(before)
        np.testing.assert_array_equal(after[:end], before[:end])
        np.testing.assert_array_equal(after[end:], stop)


def test_nothing_new_is_the_prompt():
    tokens = generate(loud(BASELINE), [[1, 2, 3], [4]], 0)
    np.testing.assert_array_equal(tokens, [[1, 2, 3], [0, 0, 4]])
    assert tokens.dtype == np.int32


def test_past_the_context_length():
    for config in (BASELINE, dataclasses.replace(BASELINE, window=5), TOGETHER):
        with pytest.raises(
            UserError, match="33 tokens are more than context_length=32; .*slide=True, or use position='rotary' with"
        ):
            generate(loud(config), text(config, 13), 20)
    assert generate(loud(BASELINE), text(BASELINE, 13), 19, temperature=0).shape == (2, 32)
    sliding = dataclasses.replace(TOGETHER, window=(5, 3))
    tokens = generate(loud(sliding), text(sliding, 13), 40, temperature=0)
    scores = jax.jit(lambda model, tokens: model(tokens))(loud(sliding), tokens)
    np.testing.assert_array_equal(np.argmax(scores, axis=-1)[:, 12:-1], tokens[:, 13:])


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "a prompt is empty; give at least one token"),
        ([[1], []], {}, "a prompt is empty"),
        (np.arange(3), {}, "prompts are a batch, .*; put a single prompt into a list"),
        ([[1.5]], {}, "prompts are token ids, whole numbers, not float64; encode the text first"),
        ([[61]], {}, "token 61 is not in the vocabulary of 61; is it another model's tokenizer?"),
        ([[2**32 + 1]], {}, "token 4294967297 is not in the vocabulary"),
        ([[-1]], {}, "token -1 is not in the vocabulary"),
        ([[1]], {"max_new_tokens": -1}, "max_new_tokens=-1 is below 0"),
        ([[1]], {"temperature": -0.5}, "temperature=-0.5 is below 0; 0 is greedy"),
        ([[1]], {"temperature": float("nan")}, "temperature=nan"),
        ([[1]], {"top_k": 0}, "top_k=0 keeps no token; use at least 1"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0 is not a probability above 0, at most 1"),
        ([[1]], {"top_p": 1.5}, "top_p=1.5 is not a probability"),
    ],
)
def test_bad_settings_say_what_to_do(prompt, settings, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # as a user has it
    with pytest.raises(ValueError, match=message):
        generate(loud(BASELINE), prompt, **{"max_new_tokens": 3} | settings)
