"""The same with a loss of one's own, the model sharded over all devices; the loss does not know of them."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxgpt
from jaxgpt.data import prepare


def loss(model, tokens, key):
    """Cross-entropy, and a penalty on the squared log of the partition function (PaLM's z-loss)."""
    logits, targets = model(tokens[:, :-1], key), tokens[:, 1:, None]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    cross_entropy = (log_z - jnp.take_along_axis(logits, targets, axis=-1)[..., 0]).mean()
    return cross_entropy + 1e-4 * jnp.square(log_z).mean(), {"cross_entropy": cross_entropy}


def main(steps: int = 200, text: str = "shakespeare") -> float:
    data, mesh = prepare(text, "char"), jaxgpt.make_mesh(data=1, fsdp=-1)
    config = jaxgpt.GPTConfig.preset("tiny", vocab_size=data.tokenizer.vocab_size)
    batches = jaxgpt.Batches(data.train, batch_size=2 * mesh.size, context_length=config.context_length, seed=0)
    model = jaxgpt.shard(jaxgpt.GPT(config, rngs=nnx.Rngs(0)), mesh)
    optimizer, value_and_grad = optax.adamw(3e-3, mask=jaxgpt.decay_mask), jaxgpt.value_and_grad(loss, mesh)
    opt_state = optimizer.init(model)

    @jax.jit
    def update(model, opt_state, tokens):
        (_, aux), gradients, _ = value_and_grad(model, tokens)
        updates, opt_state = optimizer.update(gradients, opt_state, model)
        return optax.apply_updates(model, updates), opt_state, aux

    for step in range(steps):
        model, opt_state, aux = update(model, opt_state, batches(step))
    return float(aux["cross_entropy"])


if __name__ == "__main__":
    main()
