"""Several processes as one: who they are, what one does for all, and where all stop together."""

import os
import socket
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxgpt.training.config import Cluster


def connect(cluster: Cluster) -> None:
    """Join the other processes, before anything is computed. Raises ValueError where they cannot be found."""
    if not cluster.is_multiprocess:
        return
    if cluster.coordinator is not None:
        found: dict[str, Any] = {
            "coordinator_address": cluster.coordinator,
            "process_id": cluster.process_id,
            "num_processes": cluster.num_processes,
        }
    else:
        found = from_torchrun(os.environ)
    try:
        jax.distributed.initialize(**found)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the other processes cannot be found ({str(error).splitlines()[0]}); start them with srun, mpirun or "
            "torchrun, or say --coordinator HOST:PORT --process-id I --num-processes N in each"
        ) from error


def from_torchrun(environment: Mapping[str, str]) -> dict[str, Any]:
    """What torchrun tells its processes; nothing, where it did not start this one."""
    if not {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"} <= environment.keys():
        return {}
    alone_on_its_host = environment.get("LOCAL_WORLD_SIZE", "1") == "1"
    return {
        "coordinator_address": f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']}",
        "num_processes": int(environment["WORLD_SIZE"]),
        "process_id": int(environment["RANK"]),
        "local_device_ids": None if alone_on_its_host else [int(environment["LOCAL_RANK"])],
    }


def check_equal_hosts(devices: list[jax.Device]) -> None:
    """Raise ValueError where processes see different numbers of devices."""
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        seen = ", ".join(f"{count} in process {process}" for process, count in sorted(counts.items()))
        raise ValueError(f"the processes see different numbers of devices ({seen}): make them equal")


def count_hosts() -> int:
    """How many machines the processes run on, by their names."""
    if jax.process_count() == 1:
        return 1
    return len(np.unique(multihost_utils.process_allgather(np.uint32(zlib.crc32(socket.gethostname().encode())))))


def is_main_process() -> bool:
    """Whether this process writes the files that all share, and speaks for all."""
    return jax.process_index() == 0


def on_main_process(action: Callable[[], object]) -> None:
    """The first process acts while the others wait. Raises ValueError in all of them where it cannot."""
    error = None
    if is_main_process():
        try:
            action()
        except (ValueError, OSError) as reason:
            error = reason
    failed = error is not None
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.int32(failed)))
    if error is not None:
        raise error
    if failed:
        raise ValueError("process 0 cannot go on; its message says why")


def all_stop_after(step: int) -> bool:
    """Whether SIGTERM reached one process and all, asked with the same steps, have agreed to stop after this one."""
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
