"""What a run would need and send, read from its compiled program before it runs."""

from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxgpt.inspect.collectives import Collective, collectives, wire_bytes
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import (
    BYTES_PER_SECOND,
    GPU,
    HARDWARE,
    USED_MEMORY,
    UTILISATION,
    Device,
    Fabric,
    overlapped,
)
from jaxgpt.inspect.target import AOT_XLA_FLAGS, h200
from jaxgpt.ops.platform import compiling_for
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import abstract_batch, abstract_state, compile_step, memory_needed


class Plan(NamedTuple):
    """Bytes are of one device; times of one step."""

    mesh: Mesh
    remat: str
    parameters: int
    optimizer: int
    """Both of Adam's moments, and counters."""
    temporary: int
    """Activations, gradients and what lies between, at their most."""
    needed: int
    limit: int | None
    flops_per_token: float
    flops: float
    """Of one device."""
    sent: list[Collective]

    @property
    def fits(self) -> bool | None:
        """None: the memory is not known."""
        return None if self.limit is None else self.needed <= self.limit


def make_plan(config: TrainConfig, devices: int, device: Device) -> Plan:
    """Compile the step for so many devices; those of a GPU need not be here. Raises ValueError as training would."""
    mesh = config.mesh.make(jax.devices()[:devices] if device == "cpu" else h200(devices))
    limit = None if device == "cpu" else int(USED_MEMORY * HARDWARE[device].memory)
    state = abstract_state(config, mesh)
    tokens = abstract_batch(config, mesh)
    with compiling_for("cpu" if device == "cpu" else "cuda"):
        options = None if device == "cpu" else AOT_XLA_FLAGS
        compiled, remat = compile_step(config, mesh, state, tokens, limit=limit, options=options)
    memory: Any = compiled.memory_analysis()
    parameters = bytes_per_device(state.model)
    each = flops_per_token(config.model)
    return Plan(
        mesh=mesh,
        remat=remat,
        parameters=parameters,
        optimizer=bytes_per_device(state) - parameters,
        temporary=memory.temp_size_in_bytes,
        needed=memory_needed(compiled),
        limit=limit,
        flops_per_token=each,
        flops=each * config.batch_size * config.model.context_length / mesh.size,
        sent=collectives(compiled.as_text() or ""),
    )


def efficiency(plan: Plan, device: GPU, fabric: Fabric) -> tuple[float, float]:
    """The predicted part of a step that is arithmetic, where sending and computing never and always overlap."""
    computing = plan.flops / (UTILISATION * HARDWARE[device].flops)
    return overlapped(computing, wire_bytes(plan.sent) / BYTES_PER_SECOND[fabric])
