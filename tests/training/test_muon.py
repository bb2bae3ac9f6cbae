"""Muon: against float64 NumPy, on every mesh, and what it sends."""

import dataclasses
import math
from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxgpt.data import device_put_batch
from jaxgpt.inspect.collectives import by_kind, collectives
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model, named_parameters, path_name
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import batch_sharding
from jaxgpt.training.config import OptimizerConfig, TrainConfig
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import abstract_batch, abstract_state, initial_state, make_step
from tests.runs import QUICK, quick
from tests.variants import BASELINE, text

MODEL = dataclasses.replace(BASELINE, d_model=64, d_mlp=96, vocab_size=200, num_kv_heads=2)
OPTIMIZER = OptimizerConfig(1e-2, 0.0, warmup_steps=1, name="muon", schedule="linear")
CONFIG = TrainConfig(model=MODEL, optimizer=OPTIMIZER, batch_size=8, steps=6)
MESHES = {"1x1": (1, 1), "8x1": (8, 1), "1x8": (1, 8), "2x4": (2, 4)}
KERNELS = ("query.kernel", "key.kernel", "value.kernel", "out.kernel", "up.kernel", "down.kernel")


def on(mesh: str, **changes) -> TrainConfig:
    return dataclasses.replace(CONFIG, mesh=MeshConfig(*MESHES[mesh], allow_idle=True), **changes)


@cache
def trained(config: TrainConfig) -> tuple[list[float], dict[str, np.ndarray]]:
    """The loss of each step, and the parameters after the last."""
    mesh = config.mesh.make()
    state = initial_state(config, mesh)
    step, losses = compiled(config), []
    for number in range(config.steps):
        rows = text(MODEL, length=17, batch=config.batch_size, seed=number)
        tokens = jnp.pad(rows, ((0, 0), (0, MODEL.context_length - 16)))
        state, metrics = step(
            state, device_put_batch(np.asarray(tokens).__getitem__, tokens.shape, batch_sharding(mesh))
        )
        losses.append(float(metrics.loss))
    return losses, {name: np.asarray(leaf) for name, leaf in named_parameters(state.model).items()}


@cache
def compiled(config: TrainConfig):
    mesh = config.mesh.make()
    return make_step(config, mesh).lower(abstract_state(config, mesh), abstract_batch(config, mesh)).compile(QUICK)


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """Jordan et al. 2024: five steps of X <- aX + b(XXᵀ)X + c(XXᵀ)²X, on the wide form of X / ‖X‖."""
    if matrix.shape[0] > matrix.shape[1]:
        return newton_schulz(matrix.T).T
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    return x


def numpy_muon(name: str, start: np.ndarray, gradients: list[np.ndarray], rates: list[float]) -> np.ndarray:
    """A kernel's updates in float64: Nesterov momentum, Newton-Schulz, size, decay."""
    w, momentum = start.astype(np.float64), np.zeros(start.shape)
    inputs = start.shape[0] * start.shape[1] if name.endswith("out.kernel") else start.shape[0]
    for gradient, rate in zip(gradients, rates):
        momentum = 0.95 * momentum + gradient
        matrix = (gradient + 0.95 * momentum).reshape(inputs, -1)
        update = 0.2 * np.sqrt(max(matrix.shape)) * newton_schulz(matrix)
        w = w - rate * (update.reshape(w.shape) + OPTIMIZER.weight_decay * w)
    return w


def test_kernels_move_as_in_float64_and_all_else_as_under_adamw():
    model = GPT(dataclasses.replace(MODEL, num_layers=1), rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    gradients = [jax.tree.map(lambda leaf: jnp.float32(random.normal(size=leaf.shape)), model) for _ in range(3)]
    found = {}
    for name in ("muon", "adamw"):
        tx = make_optimizer(dataclasses.replace(OPTIMIZER, name=name), steps=4)
        update, state, moved = quick(tx.update), tx.init(model), model
        for gradient in gradients:
            updates, state = update(gradient, state, moved)
            moved = optax.apply_updates(moved, updates)
        found[name] = named_parameters(moved)
    rates = [0.0, 1e-2, 1e-2 * 2 / 3]
    for name, start in named_parameters(model).items():
        expected = found["adamw"][name]
        if name.endswith(KERNELS):
            expected = numpy_muon(
                name, np.asarray(start), [np.asarray(named_parameters(g)[name]) for g in gradients], rates
            )
        np.testing.assert_allclose(found["muon"][name], expected, atol=2e-6, rtol=0, err_msg=name)


def test_an_update_is_as_large_as_adamws_and_nearly_orthogonal():
    model = GPT(MODEL, rngs=nnx.Rngs(0))
    tx = make_optimizer(dataclasses.replace(OPTIMIZER, weight_decay=0.0, warmup_steps=0), steps=10)
    gradient = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(0), leaf.shape), model)
    updates, _ = quick(tx.update)(gradient, tx.init(model), model)
    up = np.asarray(updates.blocks[0].mlp.up.kernel[...]) / OPTIMIZER.learning_rate
    assert np.sqrt(np.mean(up**2)) == pytest.approx(0.2, rel=0.2)
    singular = np.linalg.svd(up, compute_uv=False) / (0.2 * np.sqrt(max(up.shape)))
    assert 0.6 < singular.min() < singular.max() < 1.3


SLOW = pytest.mark.slow


@pytest.mark.parametrize("mesh", [pytest.param("8x1", marks=SLOW), pytest.param("1x8", marks=SLOW), "2x4"])
def test_every_mesh_trains_the_same_model(mesh):
    losses, parameters = trained(on("1x1"))
    others, moved = trained(on(mesh))
    assert others == pytest.approx(losses, abs=1e-5)
    for name, expected in parameters.items():
        np.testing.assert_allclose(moved[name], expected, atol=2e-4, rtol=0, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "zero"), [("1x8", 1), ("1x8", 2), ("2x4", 1), ("2x4", 2)])
def test_every_zero_stage_trains_the_same_model(mesh, zero):
    assert trained(on(mesh, zero=zero))[0] == pytest.approx(trained(on("1x1"))[0], abs=1e-5)


@pytest.mark.slow
def test_scanned_layers_train_the_same_model():
    config = on("1x1")
    config = dataclasses.replace(config, model=dataclasses.replace(MODEL, scan_layers=True))
    assert trained(config)[0] == pytest.approx(trained(on("1x1"))[0], abs=1e-5)


def sent(mesh: str, name: str, **changes):
    optimizer = dataclasses.replace(OPTIMIZER, name=name)
    return by_kind(collectives(compiled(on(mesh, optimizer=optimizer, **changes)).as_text()))


@pytest.mark.slow
def test_alone_and_data_parallel_muon_sends_nothing_of_its_own():
    assert sent("1x1", "muon") == {}
    assert sent("8x1", "muon") == sent("8x1", "adamw")


@pytest.mark.parametrize(("mesh", "fsdp"), [pytest.param("1x8", 8, marks=SLOW), ("2x4", 4)])
def test_sharded_muon_sends_each_kernel_out_and_back_once_and_nothing_else(mesh, fsdp):
    mine = sent(mesh, "muon")
    exchanged = mine.pop("all-to-all")
    assert mine == sent(mesh, "adamw")
    kernels = [leaf for name, leaf in named_parameters(abstract_model(MODEL)).items() if name.endswith(KERNELS)]
    alike = Counter(kernel.shape for kernel in kernels)  # of one shape: sent together, filled up to equal shares
    shares = sum(math.ceil(count / fsdp) * math.prod(shape) for shape, count in alike.items())
    assert exchanged == (2 * len(alike), 2 * 4 * shares)


def test_momentum_is_sharded_like_its_parameter_and_adam_keeps_none_for_a_kernel():
    state = abstract_state(on("1x8"), on("1x8").mesh.make()).opt_state
    moments = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if leaf.ndim > 1}
    kernels = [(name, leaf) for name, leaf in moments.items() if name.endswith(KERNELS)]
    assert len(kernels) == MODEL.num_layers * len(KERNELS)
    for name, leaf in kernels:
        assert math.prod(leaf.sharding.shard_shape(leaf.shape)) * 8 == leaf.size, name
