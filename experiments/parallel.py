"""Are one device, DDP, FSDP and both together the same training, and what do they hold and send?

    python -m experiments.parallel [--steps 30]

The CPU-size model of experiments.variants on eight virtual CPU devices, and on two processes of four each: the losses
of every step, the bytes that a device holds, and the bytes that it sends in a step, read from the compiled program,
beside a formula. Last, a prediction of how GPT-2 124M would scale on eight GPUs: arithmetic, not a measurement.
What it does not show: speed (eight virtual devices share two cores), several hosts, whether the prediction holds.
"""

import dataclasses
import socket
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments import evidence
from experiments.variants import SIZES
from jaxgpt.data import Batches, device_put_batch, prepare
from jaxgpt.inspect.collectives import by_kind, collectives, wire_bytes
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import overlapped
from jaxgpt.model.parameters import abstract_model, named_parameters, num_parameters
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import batch_sharding, bytes_per_device, sharded_axis
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.processes import connect
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import abstract_state, compile_step, initial_state

DEVICES, PROCESSES = 8, 2
MODES = {
    "one device": MeshConfig(1, 1, allow_idle=True),
    "DDP, 8 x 1": MeshConfig(8, 1, allow_idle=True),
    "FSDP, 1 x 8": MeshConfig(1, 8, allow_idle=True),
    "hybrid, 2 x 4": MeshConfig(2, 4, allow_idle=True),
}
GPU = {"flops": 395e12, "link_bytes_per_second": 370e9, "tokens": 32 * 1024}
"""Assumed: 40 % of an H100's 989 TFLOP/s, NVLink's rings at what is usually reached of 450 GB/s, tokens per device."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Train in every mode, and read the programs."""

    steps: int = 30
    """Updates in each mode."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Every mode, and the prediction."""
    if len(jax.devices()) < DEVICES:
        raise SystemExit(f"{DEVICES} devices are needed: start it as python -m experiments.parallel")
    environment = evidence.environment("python -m experiments.parallel")
    size = SIZES["cpu"].config
    config = dataclasses.replace(size, steps=arguments.steps, batch_size=16)
    modes = {name: trained(dataclasses.replace(config, mesh=mesh)) for name, mesh in MODES.items()}
    modes["hybrid, two processes"] = trained_together(dataclasses.replace(config, mesh=MODES["hybrid, 2 x 4"]))
    alone = np.array(modes["one device"]["losses"])
    for row in modes.values():
        row["largest_relative_difference"] = float(np.max(np.abs(np.array(row["losses"]) / alone - 1)))
    result = {
        "environment": environment,
        "parameters": num_parameters(abstract_model(config.model)),
        "largest_relative_difference": max(row["largest_relative_difference"] for row in modes.values()),
        "modes": modes,
        "prediction": {name: predicted(mesh) for name, mesh in MODES.items() if name != "one device"},
    }
    evidence.write("parallel", result | {"tables": tables(result)}, arguments.results)
    return result


def trained(config: TrainConfig) -> dict[str, Any]:
    """The losses of a mode, and what its program holds and sends."""
    data = prepare(config.data.source, config.data.tokenizer)
    mesh = config.mesh.make()
    length = config.model.context_length
    batches = Batches(data.train, config.batch_size, length, config.seed)
    rows, shape = batch_sharding(mesh), (config.batch_size, length + 1)
    state, losses = initial_state(config, mesh), []
    compiled, _ = compile_step(config, mesh, state, device_put_batch(batches(0).__getitem__, shape, rows))
    for number in range(config.steps):
        state, metrics = compiled(state, device_put_batch(batches(number).__getitem__, shape, rows))
        losses.append(float(metrics.loss))
    sent = collectives(compiled.as_text())
    return {
        "losses": losses,
        "state_bytes_per_device": bytes_per_device(abstract_state(config, mesh)),
        "temporary_bytes_per_device": compiled.memory_analysis().temp_size_in_bytes,
        "collectives": {kind: all_of.times for kind, all_of in by_kind(sent).items()},
        "wire_bytes_per_step": wire_bytes(sent),
        "wire_bytes_by_formula": formula(config, block_gathers=1),
        "wire_bytes_as_written": formula(config, block_gathers=2),
    }


def trained_together(config: TrainConfig) -> dict[str, Any]:
    """The same in two processes, each with half of the devices: what the first of them found."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        first, *_ = pool.map(partial(one_of_many, coordinator, config), range(PROCESSES))
    return first


def one_of_many(coordinator: str, config: TrainConfig, process_id: int) -> dict[str, Any]:
    """What each of them does."""
    jax.config.update("jax_num_cpu_devices", DEVICES // PROCESSES)
    connect(Cluster(coordinator=coordinator, process_id=process_id, num_processes=PROCESSES))
    assert len(jax.devices()) == DEVICES
    return trained(config)


def formula(config: TrainConfig, block_gathers: int) -> float:
    """Bytes that a device sends in a step, float32, in rings (n - 1 of n parts go round once for each gather).

    What is cut: the gathers of each block, one of each table, one reduce-scatter of the gradients, their all-reduce
    (two rounds) between copies. What is not cut: an all-reduce of its gradients. As it is written, a block is gathered
    twice, again for its backward pass; the CPU's compiler sees that both give the same, and keeps the first.
    """
    mesh = config.mesh.make()
    data, fsdp = config.mesh.sizes(DEVICES)
    around = {n: (n - 1) / n for n in (data, fsdp, data * fsdp)}
    total = 0.0
    for path, leaf in named_parameters(abstract_model(config.model)).items():
        size = 4 * leaf.size
        if sharded_axis(path, leaf.shape, mesh) is None:
            total += 2 * size * around[data * fsdp]
        else:
            gathers = block_gathers if path.startswith("blocks.") else 1
            total += (gathers + 1) * size * around[fsdp] + 2 * size / fsdp * around[data]
    return total


def predicted(mesh: MeshConfig) -> dict[str, float]:
    """Seconds of arithmetic and of sending for GPT-2 124M in one step, and the part of eight GPUs' speed that remains.

    Between no overlap (the times add) and a perfect one (the longer counts).
    """
    config = dataclasses.replace(TrainConfig.preset("gpt2"), mesh=mesh)
    work = flops_per_token(config.model) * GPU["tokens"] / GPU["flops"]
    send = formula(config, block_gathers=2) / GPU["link_bytes_per_second"]
    without, with_overlap = overlapped(work, send)
    return {
        "arithmetic_milliseconds": 1000 * work,
        "sending_milliseconds": 1000 * send,
        "efficiency_without_overlap": without,
        "efficiency_with_overlap": with_overlap,
    }


def tables(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The result for people."""
    alike = [
        [
            name,
            f"{row['losses'][-1]:.6f}",
            f"{row['largest_relative_difference']:.1e}",
            f"{row['state_bytes_per_device']:,}",
        ]
        for name, row in result["modes"].items()
    ]
    sent = [
        [
            name,
            f"{row['wire_bytes_per_step']:,.0f}",
            f"{row['wire_bytes_by_formula']:,.0f}",
            ", ".join(f"{times} {kind}" for kind, times in row["collectives"].items()),
        ]
        for name, row in result["modes"].items()
    ]
    scaling = [
        [
            name,
            f"{row['arithmetic_milliseconds']:.1f}",
            f"{row['sending_milliseconds']:.1f}",
            f"{100 * row['efficiency_without_overlap']:.0f} to {100 * row['efficiency_with_overlap']:.0f} %",
        ]
        for name, row in result["prediction"].items()
    ]
    head = ["mode", "last loss", "furthest from one device", "state of a device, bytes"]
    title = "A prediction, not a measurement: GPT-2 124M on eight H100, 32 x 1024 tokens each, float32 gathers"
    return [
        {"title": "Eight virtual devices", "head": head, "rows": alike},
        {
            "title": "What a device sends in a step",
            "head": ["mode", "bytes", "by formula", "collectives"],
            "rows": sent,
        },
        {
            "title": title,
            "head": ["mode", "arithmetic, ms", "sending, ms", "of eight times the speed"],
            "rows": scaling,
        },
    ]


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", DEVICES)
    main(tyro.cli(Arguments))
