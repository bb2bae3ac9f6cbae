"""Memory of the devices: whether a state fits, and what to do where a step does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.errors import UserError
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.runtime.host_memory import host_memory_limit
from jaxgpt.training.config import TrainConfig

CURE = (
    "make --batch-size smaller, raise --microbatches (now {microbatches}), use --remat block, "
    "or share the model over devices by --mesh.fsdp"
)


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes of each device that JAX may use. None: not known, such as on a CPU."""
    device = mesh.local_mesh.devices.flat[0]
    return (device.memory_stats() or {}).get("bytes_limit")


def check_state_fits(state: Any, mesh: Mesh, config: TrainConfig) -> None:
    """Raise UserError where the parameters and the optimizer's state alone are more than the memory."""
    limit, needed = memory_limit(mesh), bytes_per_device(state)
    if limit is None:  # CPUs share the machine's memory
        limit, needed = host_memory_limit(), needed * mesh.local_mesh.size
    if limit is not None and needed > limit:
        raise UserError(
            f"the parameters and the optimizer's state need {needed / 1e9:,.1f} GB, and there are {limit / 1e9:,.1f}: "
            f"use a smaller model, or share it over more devices by --mesh.fsdp (now {config.mesh.fsdp})"
        )


@contextmanager
def memory_errors(config: TrainConfig) -> Iterator[None]:
    """Within, running out of memory raises a UserError with the cure."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and not _is_out_of_memory(str(error)):
            raise
        raise UserError(f"out of memory: {CURE.format(microbatches=config.microbatches)}") from error


def _is_out_of_memory(message: str) -> bool:
    return "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower()
