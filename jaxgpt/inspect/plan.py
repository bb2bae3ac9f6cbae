"""What a training step would need and send, read from its compiled program before it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.stages import Compiled

from jaxgpt.config import GPTConfig
from jaxgpt.inspect.collectives import Collective, collectives
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import (
    BYTES_PER_SECOND,
    GPU,
    HARDWARE,
    USED_MEMORY,
    UTILISATION,
    Device,
    Fabric,
)
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.inspect.schedule import Event, events, step_seconds
from jaxgpt.inspect.target import AOT_XLA_FLAGS, h200, no_driver
from jaxgpt.ops.platform import compiling_for
from jaxgpt.parallel.sharding import bytes_per_device


class Plan(NamedTuple):
    """Bytes are of one device; times of one step."""

    mesh: Mesh
    remat: str
    parameters: int
    optimizer: int
    """The optimizer's state: of AdamW two moments of each parameter, of Muon one of each kernel; and counters."""
    teacher: int
    """The model that is distilled; 0: none."""
    temporary: int
    """Activations, gradients and what lies between, at their most."""
    needed: int
    limit: int | None
    flops_per_token: float
    flops: float
    """Of one device."""
    sent: list[Collective]
    schedule: list[Event]
    """What is computed while it is sent."""

    @property
    def fits(self) -> bool | None:
        """None: the memory is not known."""
        return None if self.limit is None else self.needed <= self.limit


def devices_of(device: Device, count: int) -> Sequence[jax.Device]:
    """So many devices to compile for; GPUs need not be here."""
    return jax.devices()[:count] if device == "cpu" else h200(count)


def memory_limit(device: Device) -> int | None:
    """Bytes of one device that a program may use; None: not known."""
    return None if device == "cpu" else int(USED_MEMORY * HARDWARE[device].memory)


@contextmanager
def compiling_for_device(device: Device) -> Iterator[dict[str, Any] | None]:
    """Within, programs are traced for the device; gives the options to compile them with."""
    if device == "cpu":
        with compiling_for("cpu"):
            yield None
        return
    with compiling_for("cuda"), no_driver():
        yield AOT_XLA_FLAGS


def make_plan(
    compiled: Compiled,
    mesh: Mesh,
    config: GPTConfig,
    tokens: int,
    *,
    state: Any,
    model: Any,
    teacher: Any,
    remat: str,
    device: Device,
) -> Plan:
    """What a compiled training step needs and sends.

    tokens: of one step. state, model, teacher: their shapes with shardings, the model as a part of the state.
    """
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    parameters = bytes_per_device(model)
    each = flops_per_token(config)
    return Plan(
        mesh=mesh,
        remat=remat,
        parameters=parameters,
        optimizer=bytes_per_device(state) - parameters,
        teacher=bytes_per_device(teacher),
        temporary=memory.temp_size_in_bytes,
        needed=memory_needed(compiled),
        limit=memory_limit(device),
        flops_per_token=each,
        flops=each * tokens / mesh.size,
        sent=collectives(text),
        schedule=events(text),
    )


def efficiency(plan: Plan, device: GPU, fabric: Fabric) -> float:
    """The predicted part of a step that is arithmetic; the rest are waits for what is sent, in the program's order."""
    computing, step = step_seconds(plan.schedule, UTILISATION * HARDWARE[device].flops, BYTES_PER_SECOND[fabric])
    return computing / step
