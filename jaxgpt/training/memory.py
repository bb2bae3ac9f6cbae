"""Memory of the devices: whether a state fits, and what to do where a step does not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.errors import UserError
from jaxgpt.parallel.mesh import FSDP
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.runtime.host_memory import host_memory_limit
from jaxgpt.runtime.out_of_memory import is_out_of_memory
from jaxgpt.training.config import TrainConfig

CURE = (
    "make --batch-size smaller, raise --microbatches (now {microbatches}), use --remat block, "
    "or share the model over devices by --mesh.fsdp"
)


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes of each device that JAX may use. None: not known, such as on a CPU."""
    device = mesh.local_mesh.devices.flat[0]
    return (device.memory_stats() or {}).get("bytes_limit")


def check_parameters_fit(mesh: Mesh, config: TrainConfig) -> None:
    """`check_state_fits` by arithmetic, of the matrices alone: thousands of layers take minutes to trace."""
    model = config.model
    attention = 2 * model.d_model * (model.num_heads + model.kv_heads) * model.head_dim
    matrices = model.num_layers * (attention + 2 * model.d_model * model.mlp_width) + model.vocab_size * model.d_model
    _check_fits(4 * matrices // mesh.shape[FSDP], mesh, config)


def check_batch_fits(mesh: Mesh, config: TrainConfig) -> None:
    """Raise UserError where the tokens of a batch, or a microbatch between two layers, are more than the memory."""
    model, devices, limit = config.model, mesh.local_mesh.size, memory_limit(mesh)
    sequences = config.batch_size // mesh.size
    tokens = 4 * sequences * devices * (model.context_length + 1)  # on the host
    itemsize = jnp.dtype(model.dtype).itemsize
    hidden = sequences // config.microbatches * model.context_length * model.d_model * itemsize  # on each device
    if limit is None:  # CPUs share the machine's memory
        needs = [(tokens + hidden * devices, host_memory_limit())]
    else:
        needs = [(tokens, host_memory_limit()), (hidden, limit)]
    for needed, room in needs:
        if needed > room:
            raise UserError(
                f"batch_size={config.batch_size} needs {needed / 1e9:,.1f} GB or more, and there are "
                f"{room / 1e9:,.1f}: {CURE.format(microbatches=config.microbatches)}"
            )


def check_state_fits(state: Any, mesh: Mesh, config: TrainConfig) -> None:
    """Raise UserError where what stays for the whole run is more than the memory: parameters, optimizer, teacher."""
    _check_fits(bytes_per_device(state), mesh, config)


def _check_fits(needed: int, mesh: Mesh, config: TrainConfig) -> None:
    limit = memory_limit(mesh)
    if limit is None:  # CPUs share the machine's memory
        limit, needed = host_memory_limit(), needed * mesh.local_mesh.size
    if needed > limit:
        raise UserError(
            f"the parameters and the optimizer's state need {needed / 1e9:,.1f} GB or more, and there are "
            f"{limit / 1e9:,.1f}: use a smaller model, or share it over more devices by --mesh.fsdp "
            f"(now {config.mesh.fsdp})"
        )


@contextmanager
def memory_errors(config: TrainConfig) -> Iterator[None]:
    """Within, running out of memory raises a UserError with the cure."""
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"out of memory: {CURE.format(microbatches=config.microbatches)}") from error
