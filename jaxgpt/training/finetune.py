"""Settings for training a model further on a text: from the size of the text, the model and the memory."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import select
from jaxgpt.parallel.mesh import one_device
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.state import abstract_state, trained

LEARNING_RATE, WIDTH = 5e-5, 768
"""Of all weights at the width of GPT-2 124M; it falls as the width grows, as in pretraining."""
ADAPTER_FACTOR = 10
"""How many times as high it is for adapters (Schulman & Thinking Machines Lab 2025, "LoRA Without Regret")."""
LARGEST_BATCH = 32
UPDATES_PER_EPOCH = 20
"""A batch is not so large that passing over the text makes fewer updates."""
VALIDATIONS_PER_EPOCH = 4
MOST_EPOCHS = 1000
USED = 0.7
"""Of the memory that is there."""


class Text(NamedTuple):
    """How many tokens there are to read."""

    train: int
    validation: int


def fit_settings(
    config: TrainConfig,
    text: Text,
    *,
    epochs: float,
    memory: int | None,
    mesh: Mesh | None = None,
    by_hand: Collection[str] = (),
) -> TrainConfig:
    """The config with batch, steps, learning rate and validations as they follow, but for fields that are set by hand.

    memory: bytes of each device. by_hand: fields by their names, such as "steps" and "optimizer.learning_rate".
    Raises UserError where the text is shorter than a context, or would be read more than a thousand times.

    Example:
        >>> from jaxgpt import TrainConfig
        >>> config = fit_settings(TrainConfig(), Text(400_000, 40_000), epochs=3, memory=None)
        >>> config.steps, config.batch_size, config.eval_every
        (73, 16, 6)
    """
    length, mesh = config.model.context_length, mesh or one_device()
    check_length(text, length)
    rows = text.train / length
    found: dict[str, Any] = {"batch_size": _batch_size(rows, mesh.size)}

    def value(name: str) -> Any:
        return getattr(config, name) if name in by_hand else found[name]

    batch_size = value("batch_size")
    found["microbatches"] = _microbatches(config, batch_size, memory, mesh)
    found["steps"] = max(1, round(epochs * rows / batch_size))
    steps = value("steps")
    if (times := steps * batch_size / rows) > MOST_EPOCHS:
        raise UserError(
            f"{steps:,} steps of {batch_size} x {length:,} tokens would read this text {times:,.0f} times, which "
            f"learns it by heart: leave --steps out, or give {max(1, round(3 * rows / batch_size))}"
        )
    found["eval_every"] = max(1, math.ceil(rows / batch_size / VALIDATIONS_PER_EPOCH))
    found["eval_batches"] = max(1, min(config.eval_batches, text.validation // length // batch_size))
    rate = LEARNING_RATE * WIDTH / config.model.d_model * (1 if config.lora is None else ADAPTER_FACTOR)
    optimizer = {
        "learning_rate": float(f"{rate:.1g}"),
        "final_learning_rate": 0.0,
        "warmup_steps": min(100, steps // 10),
    }
    optimizer = {name: value for name, value in optimizer.items() if f"optimizer.{name}" not in by_hand}
    found = {name: value for name, value in found.items() if name not in by_hand}
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **optimizer), **found)


def check_length(text: Text, length: int) -> None:
    """Raise UserError where training or validation has no whole context."""
    shorter = min(text) - 1
    if shorter >= length:
        return
    total, needed = sum(text), math.ceil((length + 1) * sum(text) / max(1, min(text)))
    cure = f", or a shorter context: --model.context-length {2 ** int(math.log2(shorter))}" if shorter >= 8 else ""
    raise UserError(
        f"the text has {total:,} tokens, {text.validation:,} of them held back for validation, and the model reads "
        f"{length:,} at a time: give a text of about {needed:,} tokens{cure}"
    )


def _batch_size(rows: float, devices: int) -> int:
    """A power of two for each device."""
    wanted = min(LARGEST_BATCH, max(1, rows / UPDATES_PER_EPOCH)) / devices
    return int(devices * 2 ** max(0, math.floor(math.log2(wanted))))


def _microbatches(config: TrainConfig, batch_size: int, memory: int | None, mesh: Mesh) -> int:
    """The fewest pieces of a batch that fit the memory, by an estimate."""
    each = max(1, batch_size // mesh.size)
    if memory is None:
        return 1
    shapes = abstract_state(config, mesh)
    gradients = bytes_per_device(select(shapes.model, trained(config)))
    room = USED * memory - bytes_per_device(shapes) - gradients
    divisors = [count for count in range(1, each + 1) if each % count == 0]
    fitting = [count for count in divisors if each // count * activation_bytes(config.model) <= room]
    return fitting[0] if fitting else each


def activation_bytes(config: GPTConfig) -> int:
    """About what the backward pass needs of one sequence (Korthikanti et al. 2022, equation 2, without the scores).

    They count 34 D bytes for each token and layer in 16 bits, which grow with the width of the MLP: 18 D + 4 F here.
    """
    wide = 2 if config.dtype == "float32" else 1
    per_token = config.num_layers * (18 * config.d_model + 4 * config.mlp_width) * wide
    return config.context_length * per_token
