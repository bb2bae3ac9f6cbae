"""How fast is a training step beside the same model in PyTorch, on the same cores, in the same minute?

    python -m experiments.speed [--preset quickstart] [--rounds 10] [--compile]

Both sides start from the same weights, read the same batches and use AdamW with the same settings; their losses are
compared, and a ratio whose losses disagree is void. Rounds alternate (ABBA), so that a machine whose speed drifts
cannot favour one side; what counts is the median of the ratios, round by round.
Needs the test extra (torch, transformers). What it does not show: other sizes, other machines, a GPU.
"""

import dataclasses
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments import evidence
from experiments.interleaved import in_turns

TOLERANCE = 2e-4
"""Relative difference of the losses above which a ratio is void."""

Step = Callable[[np.ndarray], float]


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Time the training step of a preset against PyTorch."""

    preset: str = "quickstart"
    """quickstart or shakespeare-char-cpu."""
    rounds: int = 10
    """Pairs of timings."""
    steps: int = 5
    """Steps in a timing."""
    compile: bool = False
    """Compare with torch.compile too."""


def main(arguments: Arguments) -> None:
    """Print and save the ratios."""
    from jaxgpt.training.config import TrainConfig

    command = f"python -m experiments.speed --preset {arguments.preset} --rounds {arguments.rounds}"
    command += f" --steps {arguments.steps}{' --compile' if arguments.compile else ''}"
    environment = evidence.environment(command, "torch", "transformers")
    config = TrainConfig.preset(arguments.preset)
    rng = np.random.default_rng(0)
    shape = (arguments.steps, config.batch_size, config.model.context_length + 1)
    batches = rng.integers(0, config.model.vocab_size, shape)
    rivals = {"torch eager": torch_step(config, compiled=False)}
    if arguments.compile:
        rivals["torch compiled"] = torch_step(config, compiled=True)
    result = {"preset": arguments.preset, "environment": environment, "rivals": {}}
    for name, theirs in rivals.items():
        ours = jax_step(config)  # from the start again, as each rival
        result["rivals"][name] = compare(ours, theirs, batches, arguments.rounds)
        print(f"{arguments.preset}: jaxgpt beside {name}: {json.dumps(result['rivals'][name])}")
    evidence.write(f"speed-{arguments.preset}-cpu", result)


def compare(ours: Step, theirs: Step, batches: np.ndarray, rounds: int) -> dict[str, Any]:
    """Seconds per step of both and the ratio of speeds, as medians; void where the losses differ."""
    losses = [[step(batch) for batch in batches] for step in (ours, theirs)]  # the warm-up
    apart = max(abs(a - b) / b for a, b in zip(*losses, strict=True))
    turns = in_turns(lambda: [ours(batch) for batch in batches], lambda: [theirs(batch) for batch in batches], rounds)
    our_times, their_times = ([wall / len(batches) for wall, _ in side] for side in turns)
    ratios = [b / a for a, b in zip(our_times, their_times, strict=True)]
    return {
        "times_as_fast": round(statistics.median(ratios), 3) if apart < TOLERANCE else None,
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "seconds_per_step": round(statistics.median(our_times), 4),
        "seconds_per_step_theirs": round(statistics.median(their_times), 4),
        "losses_apart": float(f"{apart:.2g}"),
    }


def jax_step(config: Any) -> Step:
    """One update by jaxgpt; returns the loss."""
    import jax

    from jaxgpt.training.sharding import one_device
    from jaxgpt.training.step import initial_state, make_step

    state, step = initial_state(config, one_device()), make_step(config, one_device())

    def update(batch: np.ndarray) -> float:
        nonlocal state
        state, metrics = step(state, batch.astype(np.int32))
        return float(jax.block_until_ready(metrics.loss))

    return update


def torch_step(config: Any, *, compiled: bool) -> Step:
    """One update by transformers' GPT-2 (SDPA) and torch's fused AdamW from the same weights; returns the loss."""
    import torch
    import transformers

    from converters import save_pretrained
    from jaxgpt.training.optimizer import schedule
    from jaxgpt.training.sharding import one_device
    from jaxgpt.training.step import initial_state

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(initial_state(config, one_device()).model, Path(folder) / "model", "gpt2")
        model = transformers.GPT2LMHeadModel.from_pretrained(Path(folder) / "model", attn_implementation="sdpa")
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    options = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(options.beta1, options.beta2),
        fused=True,
    )
    rate, done = schedule(options, config.steps), 0

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    forward = torch.compile(loss_of) if compiled else loss_of

    def update(batch: np.ndarray) -> float:
        nonlocal done
        tokens = torch.from_numpy(batch.astype(np.int64))
        for group in optimizer.param_groups:
            group["lr"] = float(rate(done))
        optimizer.zero_grad(set_to_none=True)
        loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm)
        optimizer.step()
        done += 1
        return loss.item()

    return update


if __name__ == "__main__":
    main(tyro.cli(Arguments))
