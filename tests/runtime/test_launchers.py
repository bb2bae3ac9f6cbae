"""The launchers that people use, as the programs they are: torchrun, Open MPI's mpirun, SLURM's srun and sbatch."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jaxgpt.runtime.user_cache import programs_folder
from tests import documents
from tests.runs import QUICKLY, ROOT, write_text
from tests.runtime.slurm import said, slurm, wait_for, why_not

pytestmark = pytest.mark.slow
DEADLINE = 240
TRAIN = "jaxgpt train tiny --distributed --run=r --data.source=text.txt --steps=12 --eval-every=6 --sample-tokens=0"


@pytest.fixture
def folder():
    """With a short path, for sockets, that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="launch") as name:
        Path(name).chmod(0o755)
        write_text(Path(name) / "text.txt")
        yield Path(name)


@pytest.fixture
def environment(monkeypatch):
    """The command of this interpreter is on the PATH."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", programs_folder())
    for name, value in QUICKLY.items():
        monkeypatch.setenv(name.upper(), str(value))


def launch(command: str, folder: Path, **environment: str) -> str:
    """What a command prints in a folder; it must end well, before the deadline."""
    print(command)
    process = subprocess.Popen(
        shlex.split(command),
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        out, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.terminate()
        out, _ = process.communicate(timeout=60)
        pytest.fail(f"{command} did not end within {DEADLINE} seconds: {out}")
    assert process.returncode == 0, out
    return out


def is_trained_by_two(out: str, folder: Path) -> bool:
    return "1 host, 2 processes, 2 of 2 devices" in out and (folder / "r" / "checkpoints" / "12").is_dir()


@pytest.mark.skipif(shutil.which("torchrun", path=Path(sys.executable).parent) is None, reason="torch is not installed")
def test_torchrun(folder, environment):
    out = launch(f"torchrun --standalone --nproc_per_node=2 --no-python -- {TRAIN}", folder)
    assert is_trained_by_two(out, folder), out


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="mpirun is not installed (Debian: openmpi-bin)")
def test_mpirun(folder, environment):
    rights = " --allow-run-as-root" if os.geteuid() == 0 else ""
    out = launch(f"mpirun -np 2 --oversubscribe{rights} {TRAIN}", folder)
    assert is_trained_by_two(out, folder), out


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_srun(folder, environment):
    with slurm(folder) as settings:
        out = launch(f"srun -n2 {TRAIN}", folder, SLURM_CONF=settings["SLURM_CONF"])
    assert is_trained_by_two(out, folder), out


def printed_script() -> str:
    """The batch script as the documentation has it."""
    (block,) = (block for block in documents.blocks(ROOT / "docs" / "scale.md", "sh") if "#SBATCH" in block.code)
    return block.code


def adapted(script: str, run: Path) -> str:
    """The printed script for one node with two processes, and a run of minutes."""
    changes = {
        "--nodes=2 --ntasks-per-node=8 --gpus-per-task=1": "--nodes=1 --ntasks-per-node=2 --time=3 --output=log",
        "TERM@120": "TERM@60",
        "/scratch/gpt2-xl": str(run),
        "gpt2-xl --run": "tiny --steps 1000000 --eval-every 1000000 --run",
        "my-texts/": "text.txt",
        "--mesh.data 2 --mesh.fsdp 8 --batch-size 512 --microbatches 4": "--mesh.data 2 --mesh.fsdp 1",
    }
    for printed, here in changes.items():
        assert printed in script, f"the printed script has no {printed!r} any more"
        script = script.replace(printed, here)
    return script


@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_the_printed_batch_script_survives_a_requeue_and_its_time_limit(folder, environment):
    """Requeued while it trains, then told to stop before its time is over, as --signal asks."""
    print(printed_script())
    (folder / "job.sh").write_text(adapted(printed_script(), folder / "r"))
    log = folder / "log"

    def seen(pattern: str) -> list[str]:
        return re.findall(pattern, log.read_text(errors="replace")) if log.exists() else []

    with slurm(folder) as settings:
        submitted = subprocess.run(
            ["sbatch", "job.sh"], cwd=folder, env=settings, capture_output=True, text=True, timeout=60
        )
        job = re.search(r"\d+", submitted.stdout)[0]
        metrics = folder / "r" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 5, "the first steps", DEADLINE)
        said(["scontrol", "requeue", job], settings)
        wait_for(lambda: "PENDING" in state(job, settings), "the requeue", DEADLINE)
        before = log.read_text()
        saved = int(re.search(r"stopped by SIGTERM after step (\d+)", before)[1])
        said(["scontrol", "update", f"jobid={job}", "starttime=now"], settings)  # it would wait for two minutes
        wait_for(lambda: seen(f"resuming after step {saved}"), "the second start", DEADLINE)
        began = time.monotonic()
        wait_for(lambda: "COMPLETED" in state(job, settings), "the end", DEADLINE)
    assert time.monotonic() - began < 180
    later = [int(step) for step in seen(r"stopped by SIGTERM after step (\d+)")]
    assert later[-1] > saved, log.read_text()
    assert (folder / "r" / "checkpoints" / str(later[-1])).is_dir()


def state(job: str, settings: dict[str, str]) -> str:
    return said(["scontrol", "show", "job", job], settings)
