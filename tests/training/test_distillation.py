"""Learning another model's distributions."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import distillation_loss
from jaxgpt.ops.cross_entropy import CHUNK
from tests.runs import quick

TINY = GPTConfig.preset("tiny", num_layers=1)


def model(seed: int) -> GPT:
    return jax.tree.map(lambda leaf: 5 * leaf, GPT(TINY, rngs=nnx.Rngs(seed)))


def tokens(rows: int, length: int) -> jax.Array:
    return jnp.array(np.random.default_rng(0).integers(0, TINY.vocab_size, (rows, length + 1)), jnp.int32)


def plain(teacher: GPT, student: GPT, batch: jax.Array) -> jax.Array:
    theirs, ours = (jax.nn.log_softmax(m(batch[:, :-1])) for m in (teacher, student))
    return (jnp.exp(theirs) * (theirs - ours)).sum(-1).mean()


def test_distillation_is_the_divergence_from_a_teacher_that_learns_nothing():
    teacher, student, batch = model(0), model(1), tokens(CHUNK // 32 + 1, 32)  # a chunk and a bit
    both = quick(jax.value_and_grad(distillation_loss, argnums=(3, 0)))
    loss, (for_teacher, for_student) = both(student, batch, None, teacher)
    expected, gradient = quick(jax.value_and_grad(plain, argnums=1))(teacher, student, batch)
    assert expected > 0.1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for found, wanted in zip(jax.tree.leaves(for_student), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(for_teacher))


def test_the_teacher_diverges_from_itself_by_nothing():
    teacher = model(0)
    assert abs(float(jax.jit(distillation_loss)(teacher, tokens(2, 20), None, teacher))) < 1e-6
