"""Random models of transformers, with weights of a size that trained ones have, and what they compute in float64."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from converters.adapt import model_from_parameters
from converters.architectures import ARCHITECTURES, sizes
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import named_parameters

LOGIT_BOUND = 2e-4
GRADIENT_BOUND = 2e-5


def randomize(model, seed=0, logit_scale=4.0):
    """Weights at random such that signals keep their size and logits have a standard deviation of `logit_scale`."""
    torch = pytest.importorskip("torch", reason="torch is the oracle here, and not installed")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_(0.1 * noise + (name.endswith("weight")))
            else:
                head = any(part in name for part in ("wte", "embed_tokens", "lm_head"))
                weight.copy_(noise * (logit_scale if head else 1.0) / weight.shape[-1] ** 0.5)
    return model.eval()


def transformers_model(name, seed=0, **fields):
    """A random model of a class of transformers."""
    pytest.importorskip("torch", reason="torch is the oracle here, and not installed")
    transformers = pytest.importorskip("transformers")
    special = {"bos_token_id": 0, "eos_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**special, **fields)
    config._attn_implementation = "eager"
    return randomize(getattr(transformers, f"{name}ForCausalLM" if name != "GPT2" else "GPT2LMHeadModel")(config), seed)


def open_folder(folder):
    """The model that transformers finds in a folder."""
    pytest.importorskip("torch", reason="torch is the oracle here, and not installed")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def their_logits(model, tokens):
    """What the oracle computes in float64."""
    import torch

    with torch.no_grad():
        return model.double()(input_ids=torch.from_numpy(np.asarray(tokens, np.int64)), use_cache=False).logits.numpy()


def their_gradients(model, tokens):
    """The gradient of the oracle's loss by each of its parameters, in float64."""
    import torch

    inputs, wide = torch.from_numpy(np.asarray(tokens, np.int64)), model.double()
    wide(input_ids=inputs, labels=inputs, use_cache=False).loss.backward()
    return {name: weight.grad.numpy() for name, weight in wide.named_parameters()}


def logit_error(model, oracle, tokens):
    """The largest error of a logit of our model against the oracle."""
    return logit_error_of(model, their_logits(oracle, tokens), tokens, type(oracle).__name__)


def logit_error_of(model, logits, tokens, name="nanoGPT"):
    """The largest difference of our model's logits from these."""
    assert 1 < logits.std() < 30, "logits of an unlikely size prove little"
    with jax.default_matmul_precision("highest"):
        ours = model(jnp.asarray(tokens))  # not compiled as a whole: takes longer than it saves
    error = np.abs(np.asarray(ours, np.float64) - logits).max()
    print(f"\n{name}: largest logit error {error:.1e}, standard deviation of logits {logits.std():.1f}")
    return error


def gradient_error(model, oracle, architecture, tokens):
    """The largest error of a gradient's element, as a part of its tensor's largest (a key bias's gradient is zero)."""
    with jax.default_matmul_precision("highest"):
        ours = named_parameters(jax.jit(jax.grad(next_token_loss))(model, jnp.asarray(tokens)))
    table, letters = ARCHITECTURES[architecture], sizes(model.config)
    theirs = {table.short_name(name): gradient for name, gradient in their_gradients(oracle, tokens).items()}
    worst = 0.0
    for row in table.rows(model.config, ours):
        for name, expected in zip(row.ours, row.layout.split(theirs[row.theirs], letters)):
            here = np.asarray(ours[name], np.float64)[tuple(slice(size) for size in expected.shape)]
            worst = max(worst, np.abs(here - expected).max() / np.abs(theirs[row.theirs]).max())
    print(f"\n{architecture}: largest gradient error {worst:.1e}")
    return worst


@pytest.fixture(scope="session")
def oracle():
    return SimpleNamespace(
        model=transformers_model,
        open=open_folder,
        logit_error=logit_error,
        logit_error_of=logit_error_of,
        gradient_error=gradient_error,
        randomize=randomize,
        logit_bound=LOGIT_BOUND,
        gradient_bound=GRADIENT_BOUND,
    )


def random_model(config, seed=0, scale=1.0):
    """Weights at random, of a size that gives logits the size of trained ones; padding rows zero."""
    rng = np.random.default_rng(seed)

    def parameter(name, like):
        if name.endswith("scale"):
            return jnp.asarray(1 + 0.1 * rng.normal(size=like.shape).astype(np.float32))
        size = 0.1 if name.endswith("bias") else scale / config.d_model**0.5
        size = 4 * size if name in ("embed", "head") else size
        array = size * rng.normal(size=like.shape).astype(np.float32)
        if name in ("embed", "head"):
            array[config.vocab_size :] = 0
        return jnp.asarray(array)

    return model_from_parameters(config, parameter)


@pytest.fixture(scope="session")
def make_model():
    return random_model


@pytest.fixture
def tokens():
    return np.random.default_rng(0).integers(0, 97, (2, 24))
