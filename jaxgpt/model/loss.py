"""Training losses: `loss(model, tokens, key)` is a mean in nats per token."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int, Key

from jaxgpt.model.gpt import GPT
from jaxgpt.model.inputs import document_ids
from jaxgpt.ops.cross_entropy import CHUNK, chunks, cross_entropy


def next_token_loss(
    model: GPT, tokens: Int[Array, "B S"], key: Key[Array, "..."] | None = None, *, end_of_text: int | None = None
) -> Float[Array, ""]:
    """Mean cross-entropy, in nats per token, of predicting tokens[:, 1:] from tokens[:, :-1]. With a key, dropout.

    end_of_text: the token where documents begin, so that none is predicted from another; it is the first of its
    document, and each document's first word is predicted from it alone. None: a row is one text.
    Raises UserError where the model cannot read the tokens.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxgpt.config import GPTConfig
    >>> model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    >>> loss = next_token_loss(model, jnp.array([[1, 2, 3, 4]]))  # about ln 97 = 4.57: nothing is learned yet
    >>> 4.4 < float(loss) < 4.8
    True
    """
    inputs = tokens[..., :-1]
    x = model.hidden(inputs, key, _segment_ids(inputs, end_of_text))
    x, targets = x.reshape(-1, x.shape[-1]), tokens[..., 1:].reshape(-1)
    return cross_entropy(x, model.output_table, targets, model.config.vocab_size, 1 / targets.size)


def distillation_loss(
    model: GPT,
    tokens: Int[Array, "B S"],
    key: Key[Array, "..."] | None,
    teacher: GPT,
    *,
    end_of_text: int | None = None,
) -> Float[Array, ""]:
    """Mean KL divergence of the model's next-token distribution from the teacher's (Hinton et al. 2015, section 2).

    In nats per token; zero where the two agree. The teacher gets no gradient, and no dropout. end_of_text: as for
    `next_token_loss`; both models then read each document alone.
    """

    @jax.checkpoint  # recomputes the chunk's logits in the backward pass, so that only one chunk of them exists
    def divergence(chunk: tuple[Array, Array]) -> Array:
        teacher_x, x = chunk
        targets = jax.lax.stop_gradient(jax.nn.log_softmax(teacher.logits(teacher_x[None])[0]))
        predicted = jax.nn.log_softmax(model.logits(x[None])[0])
        return (jnp.exp(targets) * (targets - predicted)).sum(axis=1).sum()

    inputs = tokens[..., :-1]
    segment_ids = _segment_ids(inputs, end_of_text)
    teacher_x = jax.lax.stop_gradient(teacher.hidden(inputs, segment_ids=segment_ids))
    pairs = [x.reshape(inputs.size, -1) for x in (teacher_x, model.hidden(inputs, key, segment_ids))]
    # A chunk is padded with rows of zeros: equal logits of zero on both sides, a divergence of zero.
    padded = tuple(chunks(x, jnp.zeros(inputs.size, jnp.int32), CHUNK)[0] for x in pairs)
    return jax.lax.map(divergence, padded).sum() / inputs.size


def _segment_ids(tokens: Int[Array, "B T"], end_of_text: int | None) -> Int[Array, "B T"] | None:
    return None if end_of_text is None else document_ids(tokens, end_of_text)
