"""Muon for the matrices and AdamW for the rest, by optax; sharded, saved and resumed like any other optimizer."""

import sys

import optax
from optax.contrib import muon

import jaxgpt


def main(steps: int = 300, text: str = "stdlib", folder: str | None = None) -> float:
    schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-2, warmup_steps=min(30, steps // 2), decay_steps=steps)
    optimizer = muon(
        schedule,
        adam_learning_rate=5e-3,
        weight_decay=0.1,
        weight_decay_mask=jaxgpt.decay_mask,
        muon_weight_dimension_numbers=jaxgpt.muon_dimensions,
    )
    result = jaxgpt.train("tiny", data=text, folder=folder, optimizer=optimizer, steps=steps)
    return result.history[-1]["val_loss"]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:4])
