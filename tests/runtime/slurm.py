"""A SLURM of this machine alone: its real daemons, from Debian's slurm-wlm and munge, configured in a folder."""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "squeue")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=60 State=UP
"""


def why_not() -> str | None:
    """What this machine lacks for it."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Within, the daemons run; yields the environment for srun and its like. `folder` must have a short path."""
    host = socket.gethostname().split(".")[0]
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, folder=folder, ports=free_ports(2), cpus=os.cpu_count()))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    with contextlib.ExitStack() as daemons:
        daemons.enter_context(daemon(munge(folder / "munge"), environment, folder / "munge.log"))
        wait_for((folder / "munge" / "socket").exists, "munged")
        daemons.enter_context(daemon(["slurmctld", "-D", "-f", str(config)], environment, folder / "slurmctld.log"))
        daemons.enter_context(daemon(["slurmd", "-D", "-f", str(config)], environment, folder / "slurmd.log"))
        wait_for(lambda: "idle" in said(["sinfo", "--noheader"], environment), "slurmd")
        yield environment


def munge(folder: Path) -> list[str]:
    """The command of an authentication daemon with a key of its own, as the user that it insists on."""
    user = pwd.getpwnam("munge")
    (folder / "key").write_bytes(secrets.token_bytes(1024))
    for path, mode in ((folder / "key", 0o400), (folder, 0o755)):
        path.chmod(mode)
        os.chown(path, user.pw_uid, user.pw_gid)
    named = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    files = [f"--{flag}={folder / name}" for flag, name in named.items()]
    return ["runuser", "-u", "munge", "--", "munged", "--foreground", "--force", *files]


@contextlib.contextmanager
def daemon(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def said(command: list[str], environment: dict[str, str]) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout


def wait_for(happened, what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} seconds"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
