import jax
import numpy as np
import pytest

import jaxgpt
from jaxgpt.evaluation.evaluate import evaluate
from jaxgpt.model.gpt import named_parameters
from jaxgpt.training.run import read_run
from tests.runs import lines, quick_compilation, state


@pytest.fixture(scope="module")
def model(trained):
    return jaxgpt.load(trained)


def test_a_run_is_loaded_as_its_newest_checkpoint(trained, model):
    saved = {name: value for name, value in state(trained).items() if name.startswith(".model")}
    loaded = jax.tree.leaves(model)
    assert len(saved) == len(loaded)
    for one, other in zip(saved.values(), loaded, strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.config == read_run(trained).config.model


def test_the_loaded_model_has_the_validation_loss_of_the_last_line(trained, model):
    run = read_run(trained)
    with quick_compilation():
        found = evaluate(model, run.data().validation, 1.0, run.config.batch_size, run.config.eval_batches)
    assert found.loss == lines(trained)[-1]["val_loss"]


def test_the_tokenizer_of_a_run_is_its_own(trained, model):
    tokenizer = jaxgpt.load_tokenizer(str(trained))
    assert (tokenizer.name, tokenizer.vocab_size) == ("char", model.config.vocab_size)
    assert tokenizer.decode(tokenizer.encode("abc")) == "abc"


def test_a_config_may_change_where_the_parameters_fit(trained, model):
    changed = jaxgpt.load(trained, window=8)
    assert (changed.config.window, changed.blocks[0].attn.window) == (8, 8)
    here, there = named_parameters(changed), named_parameters(model)
    assert all((here[name] == there[name]).all() for name in there)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 2}, "num_layers=2 cannot come from weights with num_layers=1"),
        ({"d_model": 64}, "d_model=64 cannot come from weights with d_model=32"),
        ({"widow": 8}, "'widow' is not a field of GPTConfig; did you mean 'window'"),
        ({"window": 0}, "window=0 sees nothing"),
    ],
    ids=str,
)
def test_a_change_that_needs_other_parameters_is_refused(trained, changes, message):
    with pytest.raises(ValueError, match=message):
        jaxgpt.load(trained, **changes)
