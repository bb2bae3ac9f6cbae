"""What a run is, printed where it begins."""

import jax
from rich.console import Console

from jaxgpt.model.parameters import abstract_model, num_parameters, select
from jaxgpt.ops.platform import emulates_bfloat16
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.runtime.processes import count_hosts
from jaxgpt.training.state import abstract_state, trained
from jaxgpt.training.step import describe_attention
from jaxgpt.training.trainer import Trainer

MANY_TIMES = 200
"""Passes over a text from which on a run warns; nanoGPT's examples make up to 82."""


def print_header(trainer: Trainer, console: Console) -> None:
    """Run, model, data, steps and devices, a line each."""
    config, mesh, device = trainer.config, trainer.mesh, jax.devices()[0]
    counts = {name: split["tokens"] for name, split in trainer.data.manifest["splits"].items()}
    named = trainer.data.manifest["source"] if config.data.mixture else config.data.source
    source = trainer.from_python.get("data", named)
    tokens = config.batch_size * config.model.context_length
    attention = describe_attention(config.model, documents=config.data.mask_documents)
    rows = {
        "run": trainer.run.folder,
        "model": f"{num_parameters(abstract_model(config.model)):,} parameters, {describe_dtype(config.model.dtype)}",
        "data": f"{source}: {counts['train']:,} tokens, {counts['validation']:,} for validation",
        "steps": f"{config.steps} of {config.batch_size} x {config.model.context_length} tokens",
        "device": f"{device.device_kind}; attention: {attention}",
    }
    if config.lora is not None:
        adapters = select(abstract_state(config, mesh, trainer.optimizer).model, trained(config))
        count = sum(leaf.size for leaf in jax.tree.leaves(adapters))
        rows["lora"] = f"adapters of rank {config.lora}: {count:,} parameters are trained"
    if len(jax.devices()) > 1:
        where = f"{_counted(count_hosts(), 'host')}, {_counted(jax.process_count(), 'process')}"
        rows["mesh"] = (
            f"{where}, {mesh.size} of {len(jax.devices())} devices: "
            f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}, zero {config.zero}"
        )
        rows["each"] = (
            f"{bytes_per_device(abstract_state(config, mesh, trainer.optimizer)) / 1e6:,.1f} MB of state, "
            f"{tokens // mesh.size:,} tokens a step in {config.microbatches} microbatches"
        )
    for name, value in rows.items():
        console.print(f"{name:<7} {value}", soft_wrap=True)
    if (times := config.steps * tokens / max(1, counts["train"])) > MANY_TIMES:
        console.print(
            f"warning: these steps read the text {times:,.0f} times, which learns it by heart: lower --steps, give "
            "more text, or stop early by --patience 3",
            soft_wrap=True,
        )


def describe_dtype(dtype: str) -> str:
    """The dtype, and whether float32 would be faster here.

    >>> describe_dtype("float32")
    'float32'
    """
    slow = dtype == "bfloat16" and emulates_bfloat16()
    return f"{dtype}, which this CPU emulates: float32 is faster" if slow else dtype


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
