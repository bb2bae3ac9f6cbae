"""The same training in PyTorch, on one process and on two (DDP): the same losses."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from converters import save_pretrained
from jaxgpt.data import device_put_batch
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import batch_sharding
from jaxgpt.training.config import OptimizerConfig, TrainConfig
from jaxgpt.training.optimizer import schedule
from jaxgpt.training.step import initial_state, make_step
from tests.runs import QUICK, ROOT, free_port
from tests.variants import BASELINE, text

pytest.importorskip("torch", reason="torch is the oracle here, and not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Gloo")

STEPS, ROWS = 20, 8
MODEL = dataclasses.replace(BASELINE, vocab_size=128)
OPTIMIZER = OptimizerConfig(5e-3, 5e-4, warmup_steps=4, clip_norm=0.5)
TOLERANCE = 3e-6
"""Relative. Each step's loss is a float32 sum in another order, 1e-7 apart, and twenty updates carry that on."""


def config(data: int) -> TrainConfig:
    mesh = MeshConfig(data, allow_idle=True)
    return TrainConfig(model=MODEL, optimizer=OPTIMIZER, batch_size=ROWS, steps=STEPS, mesh=mesh)


def batches() -> np.ndarray:
    """Four batches in turn, so that there is something to learn."""
    rows = [text(MODEL, length=MODEL.context_length + 1, batch=ROWS, seed=step % 4) for step in range(STEPS)]
    return np.stack(rows)


def ours(data: int) -> list[float]:
    mesh = config(data).mesh.make()
    state, rows, losses = initial_state(config(data), mesh), batches(), []
    first = device_put_batch(rows[0].__getitem__, rows[0].shape, batch_sharding(mesh))
    step = make_step(config(data), mesh).lower(state, first)
    step = step.compile(QUICK)
    for batch in rows:
        state, metrics = step(state, device_put_batch(batch.__getitem__, batch.shape, batch_sharding(mesh)))
        losses.append(float(metrics.loss))
    return losses


def theirs(folder: Path, world: int) -> list[float]:
    mesh = config(1).mesh.make()
    save_pretrained(initial_state(config(1), mesh).model, folder / "model", "gpt2")
    np.save(folder / "batches.npy", batches())
    rates = [float(schedule(OPTIMIZER, STEPS)(step)) for step in range(STEPS)]
    options = {
        "decay": OPTIMIZER.weight_decay,
        "betas": [OPTIMIZER.beta1, OPTIMIZER.beta2],
        "clip": OPTIMIZER.clip_norm,
    }
    (folder / "options.json").write_text(json.dumps(options | {"rates": rates}))
    program = [sys.executable, str(ROOT / "tests" / "training" / "torch_oracle.py"), str(folder)]
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    processes = [
        subprocess.Popen(program, env={**os.environ, **where, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * world, errors
    return json.loads((folder / "losses.json").read_text())


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_twenty_steps_have_the_losses_of_torch(tmp_path, processes):
    expected, found = theirs(tmp_path, processes), ours(processes)
    assert expected[-1] < expected[0] - 0.3
    print(f"largest relative difference: {np.max(np.abs(np.array(found) / expected - 1)):.1e}")
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
