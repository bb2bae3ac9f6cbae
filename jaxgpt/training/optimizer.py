"""AdamW with warm-up and cosine, put together from optax."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import path_name
from jaxgpt.training.config import OptimizerConfig

DECAYED = {"kernel": True, "embed": True, "position": True, "head": True, "bias": False, "scale": False}
"""Which parameters weight decay pulls towards zero, by the last word of their path. Not by rank: biases are [N, H]."""


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate by the number of updates done: linear warm-up from 0, then a cosine that ends at `steps`."""
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, 1),
        end_value=config.final_learning_rate,
    )


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Adam, decay by name, learning rate, for gradients that are clipped already."""
    return optax.chain(
        optax.scale_by_adam(config.beta1, config.beta2),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.scale_by_learning_rate(schedule(config, steps)),
    )


def clipped(gradients: GPT, norm: Float[Array, ""], most: float) -> GPT:
    """Gradients of a known norm, scaled down where it is above `most` (Pascanu et al. 2013, section 3.2)."""
    scale = jnp.minimum(1.0, most / norm)
    return jax.tree.map(lambda leaf: scale * leaf, gradients)


def decayed(model: GPT) -> GPT:
    """For each parameter, whether it decays. Raises ValueError on a parameter that the table does not name."""

    def look_up(path: tuple, _: object) -> bool:
        name = path_name(path).split(".")[-1]
        if name not in DECAYED:
            raise ValueError(f"does {name!r} decay? Add it to DECAYED in jaxgpt/training/optimizer.py")
        return DECAYED[name]

    return jax.tree_util.tree_map_with_path(look_up, model)
