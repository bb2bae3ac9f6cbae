"""How GPT-2's parameters are initialized (Radford et al. 2019, section 2.3, and OpenAI's code)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Key

from jaxgpt.config import GPTConfig

INIT_STDDEV, POSITION_STDDEV = 0.02, 0.01


class PRNGSequence:
    """The keys that `rngs.params()` gives, in the same order, counted outside of the traced program.

    nnx's own counter takes three quarters of the time of tracing a model (gpt2-large: 3.2 of 4.3 seconds).
    """

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stream, self.done = rngs.params, 0
        self.key, self.start = self.stream.key[...], self.stream.count[...]

    def params(self) -> Key[Array, ""]:
        """The next key."""
        self.done += 1
        return jax.random.fold_in(self.key, self.start + (self.done - 1))

    def end(self) -> None:
        """Advance nnx's stream past the keys that were drawn."""
        self.stream.count[...] = self.start + self.done


Rngs = nnx.Rngs | PRNGSequence


def residual_stddev(config: GPTConfig) -> float:
    """GPT-2 scales the init of residual projections by 1/sqrt(their number), two to a block."""
    return INIT_STDDEV * (2 * config.num_layers) ** -0.5


def position_table(config: GPTConfig, rngs: Rngs) -> Float[Array, "T D"]:
    """A row for each position."""
    return POSITION_STDDEV * jax.random.normal(rngs.params(), (config.context_length, config.d_model), jnp.float32)


def vocabulary_table(config: GPTConfig, rngs: Rngs) -> Float[Array, "V D"]:
    """A row for each token; the padding rows are zero and stay so, since their gradient is zero."""
    table = INIT_STDDEV * jax.random.normal(rngs.params(), (config.vocab_size, config.d_model), jnp.float32)
    return jnp.pad(table, ((0, config.padded_vocab_size - config.vocab_size), (0, 0)))
