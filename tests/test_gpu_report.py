import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def compiler() -> Path:
    """A Python that can compile for an NVIDIA GPU; skips the test where there is none."""
    for python in (Path(sys.executable), *ROOT.glob(".venv*-gpu/bin/python")):
        code = "import sys; from jaxgpt.inspect import target; sys.exit(target.check_cuda_compiler() is not None)"
        if subprocess.run([python, "-c", code], cwd=ROOT, env=here(), capture_output=True).returncode == 0:
            return python
    pytest.skip("the CUDA compiler is not installed; `make gpu-report` installs it")


def here() -> dict[str, str]:
    return os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [
        "124M",
        "124M, window 256",
        "124M, data 8",
        "124M, fsdp 8",
        "decode, batch 1",
        "decode, batch 8",
        "decode by cuDNN, batch 64, 4 KV heads",
        "decode fused, batch 1",
        "decode fused, batch 64, 4 KV heads",
    ],
)
def test_what_is_compiled_for_an_h200_is_within_its_bounds(row):
    command = [compiler(), "-m", "experiments.gpu_report", "--rows", row, "--no-write"]
    done = subprocess.run(command, cwd=ROOT, env=here(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{row}: ")
