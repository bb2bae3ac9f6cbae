"""AdamW with warm-up and cosine, put together from optax, and what other optimizers need to know of the parameters."""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import path_name
from jaxgpt.training.config import OptimizerConfig

DECAYED = {"kernel": True, "embed": True, "position": True, "head": True, "bias": False, "scale": False}
DECAYED |= {"a": True, "b": True}  # the factors of an adapter
"""Which parameters weight decay pulls towards zero, by the last word of their path. Not by rank: biases are [N, H]."""

MUON_DIMENSIONS = {
    "attn.query.kernel": ((0,), (1, 2)),  # [D, N, H]
    "attn.key.kernel": ((0,), (1, 2)),
    "attn.value.kernel": ((0,), (1, 2)),
    "attn.out.kernel": ((0, 1), (2,)),  # [N, H, D]
    "mlp.up.kernel": ((0,), (1,)),
    "mlp.down.kernel": ((0,), (1,)),
}
"""The input and the output axes of the matrices that Muon orthogonalises, by their path in a block."""


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


def muon_dimensions(model: GPT) -> GPT:
    """For each parameter, the axes by which `optax.contrib.muon` makes it a matrix; None: AdamW updates it.

    Without it Muon takes each 2-D array for a matrix, tables and biases of heads included, and no attention kernel,
    which are 3-D here (Jordan et al. 2024, "Muon").

    Example:
        >>> from optax.contrib import muon
        >>> from jaxgpt import decay_mask, muon_dimensions
        >>> optimizer = muon(0.02, weight_decay_mask=decay_mask, muon_weight_dimension_numbers=muon_dimensions)
        >>> from flax import nnx
        >>> from jaxgpt import GPT, GPTConfig
        >>> attention = muon_dimensions(GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))).blocks[0].attn
        >>> attention.out.kernel.get_value()  # of [N, H, D]
        MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=(2,))
    """
    from optax.contrib import MuonDimensionNumbers

    def look_up(path: tuple, _: object) -> MuonDimensionNumbers | None:
        name = ".".join(path_name(path).split(".")[2:])  # without blocks.3
        return MuonDimensionNumbers(*MUON_DIMENSIONS[name]) if name in MUON_DIMENSIONS else None

    return jax.tree_util.tree_map_with_path(look_up, model)
