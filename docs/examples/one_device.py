"""A plain optax loop on one device: the model is a pytree, and the loop is yours."""

import sys

import jax
import optax
from flax import nnx

import jaxgpt
from jaxgpt.data import prepare


def main(steps: int = 200, text: str = "stdlib") -> float:
    data = prepare(text, "bpe-2048")
    config = jaxgpt.GPTConfig.preset("quickstart", vocab_size=data.tokenizer.vocab_size)
    batches = jaxgpt.Batches(data.train, batch_size=4, context_length=config.context_length, seed=0)
    model = jaxgpt.GPT(config, rngs=nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-3, warmup_steps=min(30, steps // 2), decay_steps=steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.1, mask=jaxgpt.decay_mask)
    )
    opt_state = optimizer.init(model)

    @jax.jit
    def update(model, opt_state, tokens):
        loss, gradients = jax.value_and_grad(jaxgpt.next_token_loss)(model, tokens)
        updates, opt_state = optimizer.update(gradients, opt_state, model)
        return optax.apply_updates(model, updates), opt_state, loss

    for step in range(steps):
        model, opt_state, loss = update(model, opt_state, batches(step))
        if step % 20 == 0:
            print(f"step {step}: {loss:.3f} nats per token")
    return float(loss)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
