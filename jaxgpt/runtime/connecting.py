"""How a process finds the others, with JAX: launchers, ports, and a wait that ends."""

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from unittest import mock

import jax
from jax._src import clusters, distributed

from jaxgpt.errors import UserError
from jaxgpt.runtime import watchdog
from jaxgpt.runtime.cluster import Cluster, is_address

PORT_OFFSET = 1789
"""torchrun's own store listens on MASTER_PORT; JAX's coordinator takes the port this far from it."""
FIRST_PORT = 1024
TORCHRUN = {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"}
"""The variables by which torchrun tells a process who it is."""
HOW = (
    "start them with srun, mpirun or torchrun, or say --coordinator HOST:PORT --process-id I --num-processes N in each"
)


def initialize(cluster: Cluster) -> None:
    """Connect to the other processes. Raises UserError where that fails, and ends this process with exit code 3 where
    they do not come in time: half connected, it could not end otherwise.
    """
    found = find_cluster(cluster)
    if found["process_id"] == 0:
        check_port(found["coordinator_address"])
    # Its handler of SIGTERM is replaced by ours, which knows SIGINT too (runtime/signals.py).
    jax.config.update("jax_enable_preemption_service", False)
    failed: list[Exception] = []

    def run() -> None:
        try:
            with _told_of_lost_processes():
                jax.distributed.initialize(**found, initialization_timeout=cluster.connect_seconds + 60)
        except (RuntimeError, ValueError) as error:
            failed.append(error)

    # In a thread: inside JAX no signal would be noticed before the wait is over.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + cluster.connect_seconds
    while thread.is_alive():
        thread.join(0.1)
        if time.monotonic() > deadline:
            watchdog.give_up(
                f"process {found['process_id']} of {found['num_processes']} has waited {cluster.connect_seconds} s for "
                f"the others at {found['coordinator_address']}; see what ended them, or raise --connect-seconds"
            )
    if failed:
        raise UserError(f"the processes cannot connect ({str(failed[0]).splitlines()[0][:300]}); {HOW}") from failed[0]


def find_cluster(cluster: Cluster) -> dict[str, Any]:
    """The arguments of jax.distributed.initialize: from flags, torchrun, or the launchers that JAX knows."""
    if cluster.coordinator is None and os.environ.keys() >= TORCHRUN:
        return from_torchrun(os.environ)
    address, count, process = cluster.coordinator, cluster.num_processes, cluster.process_id
    local: Sequence[int] | None = None
    if address is None:
        try:
            address, count, process, local = clusters.ClusterEnv.auto_detect_unset_distributed_params(
                os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, cluster.connect_seconds
            )
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"--distributed cannot read what the launcher says ({error}); {HOW}") from error
    if address is None or count is None or process is None:
        raise UserError(f"--distributed finds no launcher that says where the other processes are; {HOW}")
    return {
        "coordinator_address": address,
        "num_processes": count,
        "process_id": process,
        "local_device_ids": local,
        "cluster_detection_method": "deactivate",
    }


def from_torchrun(environment: Mapping[str, str]) -> dict[str, Any]:
    """What torchrun tells its processes. Raises UserError where that cannot be."""
    alone_on_its_host = environment.get("LOCAL_WORLD_SIZE", "1") == "1"
    master, count = (
        _number(environment, "MASTER_PORT", range(1, 2**16)),
        _number(environment, "WORLD_SIZE", range(1, 2**31)),
    )
    return {
        "coordinator_address": f"{environment['MASTER_ADDR']}:{coordinator_port(master)}",
        "num_processes": count,
        "process_id": _number(environment, "RANK", range(count)),
        "local_device_ids": None if alone_on_its_host else [_number(environment, "LOCAL_RANK", range(count))],
        "cluster_detection_method": "deactivate",
    }


def _number(environment: Mapping[str, str], name: str, allowed: range) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) in allowed):
        raise UserError(
            f"{name}={text!r} in the environment is no number from {allowed.start} to {allowed.stop - 1}: start the "
            "processes with torchrun, or unset MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE"
        )
    return int(text)


def coordinator_port(master_port: int) -> int:
    """A port that every process derives from torchrun's, which torchrun itself uses.

    >>> coordinator_port(29500)
    31289
    """
    return FIRST_PORT + (master_port + PORT_OFFSET - FIRST_PORT) % (2**16 - FIRST_PORT)


def check_port(address: str) -> None:
    """Raise UserError where another program listens on the coordinator's port of this machine."""
    port = address.rpartition(":")[2]
    if not is_address(address):
        raise UserError(f"the coordinator's address {address!r} must be HOST:PORT, such as node1:12345; {HOW}")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the coordinator does
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at {address} ({error.strerror}); name another port: --coordinator HOST:PORT, "
                "torchrun --master-port PORT, or JAX_COORDINATOR_PORT in the environment"
            ) from error


def _told_of_lost_processes() -> Any:
    """Within, a client of JAX's store calls the watchdog where JAX would end the process with a stack trace."""
    library: Any = distributed._jax
    make = partial(library.get_distributed_runtime_client, missed_heartbeat_callback=watchdog.store_lost)
    return mock.patch.object(library, "get_distributed_runtime_client", make)
