"""A training run in memory: no folder, no checkpoints; what it leaves is a curve."""

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from experiments.interleaved import Program
from jaxgpt.data import Batches, TokenData, eval_batches
from jaxgpt.model.gpt import GPT
from jaxgpt.parallel.mesh import one_device
from jaxgpt.runtime.user_cache import programs_folder
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import initial_state, make_step

TIMED_STEPS = 5
"""Steps of one timing."""


def keep_programs() -> None:
    """Compiled programs are kept on disk: seeds share them, and a second start finds them."""
    jax.config.update("jax_compilation_cache_dir", programs_folder())
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def train(
    config: TrainConfig,
    data: TokenData,
    *,
    start: GPT | None = None,
    teacher: GPT | None = None,
) -> tuple[GPT, dict[str, Any]]:
    """The trained model, and its curve: tokens read, validation loss at each of them, the first before any update.

    It starts from fresh weights of the seed, or from a model, of which a copy is trained.
    """
    state, step = initial_state(config, one_device()), make_step(config, one_device())
    if start is not None:
        state = state._replace(model=jax.tree.map(jnp.copy, start))
    batches = Batches(data.train, config.batch_size, config.model.context_length, config.seed)
    held_back = eval_batches(data.validation, 4 * config.batch_size, config.model.context_length, config.eval_batches)
    curve: dict[str, Any] = {"tokens": [], "validation": [], "training": []}
    wall, processor, recent = 0.0, 0.0, []
    for done in range(config.steps + 1):
        if done % config.eval_every == 0 or done == config.steps:
            loss = float(losses_by_position(state.model, held_back).mean())
            curve["tokens"].append(done * config.batch_size * config.model.context_length)
            curve["validation"].append(loss)
            curve["training"].append(float(np.mean([float(one) for one in recent])) if recent else None)
            recent = []
        if done < config.steps:
            began = time.perf_counter(), time.process_time()
            state, metrics = step(state, batches(done), teacher)
            recent.append(jax.block_until_ready(metrics.loss))
            if done:  # the first compiles
                wall, processor = wall + time.perf_counter() - began[0], processor + time.process_time() - began[1]
    return state.model, curve | {"step_seconds": wall, "step_processor_seconds": processor}


def losses_by_position(model: GPT, batches: Int[np.ndarray, "N B S"]) -> Float[np.ndarray, " T"]:
    """Mean loss in nats at each position of the context."""
    compiled = partial(_by_position, model)
    return np.mean([np.asarray(compiled(tokens), np.float64) for tokens in batches], axis=0)


@jax.jit
def _by_position(model: GPT, tokens: Int[Array, "B S"]) -> Float[Array, " T"]:
    scores = jax.nn.log_softmax(model(tokens[:, :-1]))
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0].mean(axis=0)


def whole_validation(config: TrainConfig, data: TokenData) -> Int[np.ndarray, "N B S"]:
    """All of the held-back text, in windows of the context."""
    return eval_batches(data.validation, 4 * config.batch_size, config.model.context_length, len(data.validation))


def training(config: TrainConfig) -> Program:
    """A program of TIMED_STEPS steps on one batch of random tokens."""
    step, state = make_step(config, one_device()), initial_state(config, one_device())
    shape = (config.batch_size, config.model.context_length + 1)
    tokens = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, dtype=np.int32)

    def run() -> None:
        nonlocal state
        for _ in range(TIMED_STEPS):
            state, metrics = step(state, tokens, None)
        jax.block_until_ready(metrics)

    return run
