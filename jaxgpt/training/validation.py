"""The loss on held-out text during training."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgpt.data import device_put_batch, eval_batches
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.parallel.value_and_grad import mean_loss
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.state import abstract_batch, abstract_state


def compile_validation(
    config: TrainConfig, tokens: np.ndarray, mesh: Mesh, end_of_text: int | None = None
) -> Callable[[GPT, int | None], float]:
    """validate(model, count) -> mean loss in nats per token on all validation batches or on the first so many.

    A batch is computed in the step's microbatches, so that it needs no more memory. end_of_text: as for the step.
    """
    tokens_like = abstract_batch(config, mesh)
    shape, place = tokens_like.shape, tokens_like.sharding
    loss = partial(next_token_loss, end_of_text=end_of_text)
    of_batch = jax.jit(mean_loss(loss, mesh, microbatches=config.microbatches))
    compiled = of_batch.lower(abstract_state(config, mesh).model, tokens_like).compile()
    batches = eval_batches(tokens, config.batch_size, config.model.context_length, config.eval_batches)

    def validate(model: GPT, count: int | None) -> float:
        losses = [compiled(model, device_put_batch(rows.__getitem__, shape, place))[0] for rows in batches[:count]]
        return float(np.mean(losses, dtype=float))

    return validate
