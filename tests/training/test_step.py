import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import named_parameters
from jaxgpt.ops.platform import cpu_compiler_options
from jaxgpt.parallel.mesh import one_device
from jaxgpt.parallel.value_and_grad import value_and_grad
from jaxgpt.training.config import OptimizerConfig, TrainConfig
from jaxgpt.training.step import (
    TrainState,
    abstract_state,
    compile_step,
    create_state,
    describe_attention,
    dropout_keys,
    initial_state,
    make_step,
    train_step,
)
from tests.runs import QUICK, quick
from tests.variants import BASELINE, loud, text

MODEL = dataclasses.replace(BASELINE, context_length=16, num_layers=1)
CONFIG = TrainConfig(model=MODEL, optimizer=OptimizerConfig(1e-2, 1e-3, warmup_steps=2), steps=12, batch_size=4)
DROPPING = dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, dropout=0.5))

ALONE = one_device()
loss_and_gradients = quick(value_and_grad(next_token_loss, ALONE))
step_with = quick(partial(train_step, mesh=ALONE), static_argnames="config")


@cache
def step():
    """CONFIG's step as the loop runs it."""
    return make_step(CONFIG, ALONE).lower(abstract_state(CONFIG, ALONE), batch(0)).compile(QUICK)


def batch(number: int) -> np.ndarray:
    return text(MODEL, length=MODEL.context_length + 1, batch=CONFIG.batch_size, seed=number)


def loud_state(config: TrainConfig = CONFIG) -> TrainState:
    """A state before the first update, of loud weights; a copy, since a step uses it up."""
    return create_state(config, jax.tree.map(jnp.copy, loud(config.model)))


def mean_gradient(state: TrainState):
    """Adam's running mean."""
    return next(part.mu for part in state.opt_state if hasattr(part, "mu"))


def assert_close(one, other, atol: float) -> None:
    one, other = named_parameters(one), named_parameters(other)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], atol=atol, rtol=0, err_msg=name)


def test_microbatches_give_the_loss_the_gradient_and_the_update_of_the_batch():
    in_pieces = dataclasses.replace(CONFIG, microbatches=4)
    whole, pieces = loud_state(), loud_state()
    for number in range(2):  # the first has a learning rate of 0
        whole, expected = step()(whole, batch(number))
        pieces, told = step_with(pieces, batch(number), config=in_pieces)
        np.testing.assert_array_max_ulp(told.loss, expected.loss, maxulp=4)  # 14 nats in float32 end at 1e-6
        assert float(told.grad_norm) == pytest.approx(float(expected.grad_norm), rel=1e-6)
        assert_close(mean_gradient(pieces), mean_gradient(whole), atol=1e-7)
    # Adam divides by the gradient's size: where that is rounding alone (a key's bias shifts all scores alike), the
    # sign of the update is chance.
    same = named_parameters(whole.model)
    for name, parameter in named_parameters(pieces.model).items():
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(parameter, same[name], atol=1e-6, rtol=0, err_msg=name)


def test_a_step_applies_the_gradient_of_the_loss_once():
    (loss, _), grads, norm = loss_and_gradients(loud(MODEL), batch(0))
    assert float(norm) == pytest.approx(np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads))), rel=1e-5)
    norm = float(norm)
    state, metrics = step()(loud_state(), batch(0))
    assert float(metrics.loss) == pytest.approx(float(loss), abs=1e-6)
    assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-5)
    assert norm > CONFIG.optimizer.clip_norm
    assert_close(mean_gradient(state), jax.tree.map(lambda g: 0.1 * g / norm, grads), atol=1e-6)
    assert int(state.step) == 1


def test_the_learning_rate_told_is_the_one_used():
    state, told = loud_state(), []
    for number in range(4):
        before = np.asarray(state.model.embed[...]).copy()
        state, metrics = step()(state, batch(number))
        told.append(float(metrics.learning_rate))
        moved = np.abs(np.asarray(state.model.embed[...]) - before).max()
        # Adam moves a weight by about the learning rate at most, and decay adds a tenth of the weight of that.
        assert 0.5 * told[-1] <= moved <= 2 * told[-1]
    np.testing.assert_allclose(told[:3], [0, 0.5e-2, 1e-2], rtol=1e-6)
    assert told[3] < told[2]


def test_a_step_reuses_the_memory_of_the_state_given_to_it():
    state = loud_state()
    leaves = jax.tree.leaves(state)
    assert step().memory_analysis().alias_size_in_bytes == sum(leaf.nbytes for leaf in leaves)
    step()(state, batch(0))
    assert all(leaf.is_deleted() for leaf in leaves)


def test_steps_learn_a_batch_and_leave_the_padding_rows_of_the_table_zero():
    state, losses = initial_state(CONFIG, ALONE), []
    for _ in range(CONFIG.steps):
        state, metrics = step()(state, batch(0))
        losses.append(float(metrics.loss))
    assert losses[0] == pytest.approx(np.log(MODEL.vocab_size), abs=0.1)
    assert losses[-1] < losses[0] - 0.5
    table = np.asarray(state.model.embed[...])
    assert len(table) > MODEL.vocab_size
    assert not table[MODEL.vocab_size :].any()
    assert table[: MODEL.vocab_size].any(axis=1).all()


def test_what_is_dropped_is_a_function_of_seed_step_and_row():
    def drawn(seed: int, number: int) -> list[tuple]:
        keys = dropout_keys(dataclasses.replace(DROPPING, seed=seed), jnp.int32(number), rows=4)
        return [tuple(key) for key in jax.random.key_data(keys).tolist()]

    keys = {key for seed in (0, 1) for number in (0, 1, 2) for key in drawn(seed, number)}
    assert len(keys) == 2 * 3 * 4
    assert set(drawn(1, 2)) <= keys
    assert dropout_keys(CONFIG, jnp.int32(0), rows=4) is None


@pytest.mark.parametrize("number", [0, 3])
def test_a_step_drops_by_its_own_number(monkeypatch, number):
    class Asked(Exception):  # noqa: N818  no error
        pass

    def ask(model, tokens, keys):
        raise Asked(jax.random.key_data(keys).tolist())

    monkeypatch.setattr("jaxgpt.training.step.value_and_grad", lambda *_, **__: ask)
    with pytest.raises(Asked) as asked:
        train_step(loud_state(DROPPING)._replace(step=jnp.int32(number)), batch(0), config=DROPPING, mesh=ALONE)
    expected = dropout_keys(DROPPING, jnp.int32(number), CONFIG.batch_size)
    assert asked.value.args[0] == jax.random.key_data(expected).tolist()


def test_a_row_drops_the_same_in_any_microbatch():
    losses = [
        float(
            step_with(loud_state(DROPPING), batch(0), config=dataclasses.replace(DROPPING, microbatches=count))[1].loss
        )
        for count in (1, 2, 4)
    ]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-6)
    assert abs(losses[0] - float(step()(loud_state(), batch(0))[1].loss)) > 1e-3


def test_the_attention_that_runs_is_named():
    assert describe_attention(dataclasses.replace(MODEL, num_layers=2, attention="xla")) == "xla"
    with pytest.raises(ValueError, match="attention='cudnn' cannot run here"):
        describe_attention(dataclasses.replace(MODEL, attention="cudnn"))


def test_a_step_is_compiled_with_the_options_of_its_platform_and_then_the_callers(monkeypatch):
    own, given, compiled = cpu_compiler_options(), [], jax.stages.Lowered.compile
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self, options: given.append(options) or compiled(self))
    callers = dict.fromkeys(own, 128) | QUICK
    for options in (None, callers):
        compile_step(CONFIG, ALONE, abstract_state(CONFIG, ALONE), batch(0), options=options)
    assert given == [own, callers]
