"""Optimizers and schedules by name, put together from optax, and which parameters decay."""

import math

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float

from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import path_name
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.muon import scale_by_muon_and_adam

DECAYED = {"kernel": True, "embed": True, "position": True, "head": True, "bias": False, "scale": False}
DECAYED |= {"a": True, "b": True}  # the factors of an adapter
"""Which parameters weight decay pulls towards zero, by the last word of their path. Not by rank: biases are [N, H]."""


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by the number of updates done: linear warm-up from 0, then what `config.schedule` names.

    cosine, linear: fall to the final rate at `steps`. wsd: the peak, then a linear fall over the last
    `config.cooldown` of the steps (Hu et al. 2024, "MiniCPM", section 4). constant: the peak.
    """
    steps = max(steps, 1)
    warmup = min(config.warmup_steps, steps - 1)
    peak, final = config.learning_rate, config.final_learning_rate
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, decay_steps=steps, end_value=final)
    falling = {"linear": steps - warmup, "wsd": min(math.ceil(config.cooldown * steps), steps - warmup), "constant": 0}
    fall = falling[config.schedule]
    pieces = [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)]
    if fall:
        pieces.append(optax.linear_schedule(peak, final, fall))
    return optax.join_schedules(pieces, [warmup, steps - fall][: len(pieces) - 1])


def make_optimizer(config: OptimizerConfig, steps: int, mesh: Mesh | None = None) -> optax.GradientTransformation:
    """A direction by name, decay by name, learning rate, for gradients that are clipped already.

    `mesh`: where parameters are sharded, which Muon has to know. The state does not depend on it.
    """
    directions = {
        "adamw": lambda: optax.scale_by_adam(config.beta1, config.beta2),
        "muon": lambda: scale_by_muon_and_adam(config.momentum, config.beta1, config.beta2, mesh),
        "lion": lambda: optax.scale_by_lion(config.beta1, config.beta2),
        "sgd": lambda: optax.trace(config.momentum),
    }
    return optax.chain(
        directions[config.name](),
        optax.add_decayed_weights(config.weight_decay, mask=decay_mask),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )


def clip(gradients: GPT, norm: Float[Array, ""], max_norm: float) -> GPT:
    """Gradients of a known norm, scaled down where it is above `max_norm` (Pascanu et al. 2013, section 3.2)."""
    scale = jnp.minimum(1.0, max_norm / norm)
    return jax.tree.map(lambda leaf: scale * leaf, gradients)


def decay_mask(model: GPT) -> GPT:
    """For each parameter, whether weight decay applies: matrices and tables, never biases or LayerNorms.

    For `mask=` of optax's optimizers. By name, since a bias of queries is [N, H] and would decay by its rank.

    Example:
        >>> import optax
        >>> from jaxgpt import decay_mask
        >>> optimizer = optax.adamw(1e-3, weight_decay=0.1, mask=decay_mask)
        >>> from flax import nnx
        >>> from jaxgpt import GPT, GPTConfig
        >>> attention = decay_mask(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))).blocks[0].attn
        >>> attention.query.kernel.get_value(), attention.query.bias.get_value()
        (True, False)

    Raises ValueError on a parameter that the table does not name.
    """

    def look_up(path: tuple, _: object) -> bool:
        name = path_name(path).split(".")[-1]
        if name not in DECAYED:
            raise ValueError(f"does {name!r} decay? Add it to DECAYED in jaxgpt/training/optimizer.py")
        return DECAYED[name]

    return jax.tree_util.tree_map_with_path(look_up, model)
