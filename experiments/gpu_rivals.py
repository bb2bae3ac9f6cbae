"""The same step in PyTorch, compiled: nanoGPT's model as it is, transformers' with cuDNN's attention. For gpu_day."""

import contextlib
import dataclasses
import os
from importlib.util import find_spec
from typing import Any

from experiments.gpu_parts import Context, Row

LOSSES_APART = 2e-2
"""Relative difference of the first losses from ours above which a row says nothing: it is another program."""


def train(name: str, context: Context) -> Row:
    """Tokens per second beside ours, whose row it reads the losses of."""
    if missing := [package for package in ("torch", "transformers") if find_spec(package) is None]:
        raise RuntimeError(f"{' and '.join(missing)} is not installed")
    if name == "nanoGPT" and context.nanogpt is None:
        raise RuntimeError("give the folder of a checkout: --nanogpt FOLDER")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the GPU is torch's; jax makes the weights
    from experiments import gpu_speed, peers
    from jaxgpt.parallel.mesh import one_device
    from jaxgpt.training.step import initial_state

    config = gpu_speed.train_config("train 124M", context)
    model = initial_state(
        dataclasses.replace(config, model=dataclasses.replace(config.model, attention="auto")), one_device()
    ).model
    make = (
        peers.transformers_loss if name == "transformers" else lambda model: peers.nanogpt_loss(model, context.nanogpt)
    )
    with attention(name, context):
        update = peers.train_step(config, *make(model), compiled=not context.tiny, wait=False)
        seconds, losses = gpu_speed.step_seconds(update, config, float)
        peak = peers.peak_gigabytes(lambda: update(gpu_speed.batches_of(config)[0]))
    return {**gpu_speed.speed(config, seconds, losses, context), "memory_peak_gigabytes": peak}


def attention(name: str, context: Context) -> contextlib.AbstractContextManager[Any]:
    """Transformers with cuDNN's attention, as it is fastest on Hopper; nanoGPT as its authors run it."""
    if name == "nanoGPT" or context.tiny:
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION)


def beside_ours(rows: dict[str, Row]) -> None:
    """Add to each rival's row how many times as fast ours is; none, where the losses say that it is another program."""
    ours = rows.get("train 124M", {})
    for name in ("nanoGPT", "transformers"):
        theirs = rows.get(name, {})
        if "losses" not in ours or "losses" not in theirs:
            continue
        apart = max(abs(a - b) / b for a, b in zip(ours["losses"], theirs["losses"], strict=True))
        ratio = ours["tokens_per_second"] / theirs["tokens_per_second"]
        same = apart <= LOSSES_APART
        theirs |= {
            "losses_apart": apart,
            "times_as_fast": ratio if same else None,
            "beside": f"ours is {ratio:.2f} times as fast" if same else f"void: losses {apart:.1%} apart",
        }
