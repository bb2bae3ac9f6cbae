"""What a run would need and send, read from its compiled program before it runs."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.model.attention import compiling_for
from jaxgpt.model.flops import flops_per_token
from jaxgpt.training.collectives import Collective, collectives
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.sharding import batch_sharding, bytes_per_device, make_mesh
from jaxgpt.training.step import abstract_state, compile_step, memory_needed
from jaxgpt.training.target import AS_IT_IS, h200

Device = Literal["cpu", "h100", "h200"]
Fabric = Literal["nvlink", "infiniband", "ethernet"]


class Hardware(NamedTuple):
    """A device by its data sheet."""

    memory: int
    """Bytes."""
    flops: float
    """Dense bfloat16 operations per second."""


HARDWARE = {"h100": Hardware(80_000_000_000, 989e12), "h200": Hardware(141_000_000_000, 989e12)}
BYTES_PER_SECOND = {"nvlink": 450e9, "infiniband": 50e9, "ethernet": 12.5e9}
"""What a device can send: NVLink 4 in one direction, one 400 Gb/s adapter for each GPU, 100 Gb/s Ethernet."""
USED_MEMORY = 0.92
"""Of a GPU's memory, the rest being the driver's, NCCL's and lost between buffers."""
UTILISATION = 0.45
"""Of the peak, assumed for arithmetic: what GPT-2 124M is predicted to reach on one H200."""


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
    mesh = make_mesh(config.mesh, jax.devices()[:devices] if device == "cpu" else h200(devices))
    limit = None if device == "cpu" else int(USED_MEMORY * HARDWARE[device].memory)
    state = abstract_state(config, mesh)
    shape = (config.batch_size, config.model.context_length + 1)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
    with compiling_for("cpu" if device == "cpu" else "cuda"):
        options = None if device == "cpu" else AS_IT_IS
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


def efficiency(plan: Plan, device: Device, fabric: Fabric) -> tuple[float, float]:
    """The predicted part of a step that is arithmetic, where sending and computing never and always overlap."""
    computing = plan.flops / (UTILISATION * HARDWARE[device].flops)
    sending = sum(each.wire_bytes for each in plan.sent) / BYTES_PER_SECOND[fabric]
    return computing / (computing + sending), computing / max(computing, sending)
