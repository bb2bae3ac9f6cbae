import os
import socket

import pytest

from jaxgpt.errors import UserError
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.connecting import check_port, coordinator_port, find_cluster, from_torchrun
from tests.runs import free_port, start

TORCHRUN = {
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
}


@pytest.fixture
def no_launcher(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "MASTER_", "JAX_COORDINATOR")):
            monkeypatch.delenv(name)


def test_torchrun_says_who_this_process_is_and_keeps_its_port():
    told = from_torchrun(TORCHRUN)
    assert told["coordinator_address"] == f"node1:{coordinator_port(29500)}"
    assert coordinator_port(29500) != 29500
    assert (told["process_id"], told["num_processes"], told["local_device_ids"]) == (3, 4, [1])
    assert from_torchrun(TORCHRUN | {"LOCAL_WORLD_SIZE": "1"})["local_device_ids"] is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("MASTER_PORT", "abc", "1 to 65535"),
        ("MASTER_PORT", "99999999", "1 to 65535"),
        ("WORLD_SIZE", "0", "1 to 2147483647"),
        ("WORLD_SIZE", "-1", "1 to 2147483647"),
        ("RANK", "4", "0 to 3"),
        ("RANK", "", "0 to 3"),
        ("LOCAL_RANK", "x", "0 to 3"),
        ("RANK", "\u0663", "0 to 3"),
    ],
)
def test_variables_that_torchrun_would_not_set_are_refused_by_name(name, value, allowed):
    with pytest.raises(UserError, match=f"{name}={value!r} in the environment is no number from {allowed}: start the"):
        from_torchrun(TORCHRUN | {name: value})


def test_a_coordinators_address_that_is_none_is_refused():
    with pytest.raises(UserError, match="the coordinator's address 'node1' must be HOST:PORT"):
        check_port("node1")


def test_every_port_of_torchrun_leads_to_one_that_a_user_may_open():
    ports = [coordinator_port(port) for port in range(1024, 2**16)]
    assert min(ports) >= 1024
    assert max(ports) < 2**16
    assert len(set(ports)) == len(ports)


def test_slurm_and_open_mpi_say_who_this_process_is(monkeypatch, no_launcher):
    slurm = {"JOB_ID": "7", "STEP_NODELIST": "node[3-4]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}
    with monkeypatch.context() as patch:
        for name, value in slurm.items():
            patch.setenv(f"SLURM_{name}", value)
        told = find_cluster(Cluster(distributed=True))
        assert told["coordinator_address"].startswith("node3:")
        assert (told["process_id"], told["num_processes"], told["local_device_ids"]) == (1, 2, [0])
    monkeypatch.setenv("OMPI_MCA_orte_hnp_uri", "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911")
    for name, value in {"SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    told = find_cluster(Cluster(distributed=True))
    assert told["coordinator_address"].startswith("10.96.0.1:")
    assert (told["process_id"], told["num_processes"], told["local_device_ids"]) == (1, 2, [1])


def test_without_a_launcher_distributed_is_refused(no_launcher):
    with pytest.raises(UserError, match="finds no launcher .*start them with srun, mpirun or torchrun"):
        find_cluster(Cluster(distributed=True))


def test_a_port_that_is_taken_is_refused_by_name():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at localhost:{port} .*name another port"):
            check_port(f"localhost:{port}")
    check_port(f"localhost:{port}")


def test_who_this_process_is_takes_three_flags():
    with pytest.raises(UserError, match="--process-id and --num-processes must be given too"):
        Cluster(coordinator="localhost:1")
    with pytest.raises(UserError, match="--process-id 2 must be at least 0 and below --num-processes 2"):
        Cluster(coordinator="localhost:1", process_id=2, num_processes=2)
    with pytest.raises(UserError, match="--coordinator 'node1' must be HOST:PORT"):
        Cluster(coordinator="node1", process_id=0, num_processes=2)
    assert not Cluster().is_multiprocess


def test_a_process_whose_others_never_come_ends_with_the_reason():
    address = f"localhost:{free_port()}"
    flags = ("--coordinator", address, "--num-processes", 2, "--process-id", 1, "--connect-seconds", 1)
    process = start("train", "tiny", "--run", "runs/never", *flags)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    expected = f"jaxgpt: process 1 of 2 has waited 1 s for the others at {address}; see what ended them"
    assert err.startswith(expected), err
