"""Checkpoints that go from any mesh to any other, and whose damage is found."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data import device_put_batch
from jaxgpt.model.gpt import GPT
from jaxgpt.model.loss import next_token_loss
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import batch_sharding
from jaxgpt.parallel.value_and_grad import mean_loss
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.checksum import checksum, checksums
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import initial_state, state_shardings
from tests.runs import quick
from tests.variants import BASELINE, text

CONFIG = TrainConfig(model=dataclasses.replace(BASELINE, num_layers=1), seed=3)
MESHES = {
    name: MeshConfig(*sizes, allow_idle=True).make()
    for name, sizes in {"1x1": (1, 1), "8x1": (8, 1), "1x8": (1, 8), "2x4": (2, 4)}.items()
}


@pytest.fixture(scope="module")
def first():
    return initial_state(CONFIG, MESHES["1x1"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, first):
    """The same state, saved from each mesh."""
    folder = tmp_path_factory.mktemp("saved")
    for name, mesh in MESHES.items():
        with Checkpoints(folder / name) as checkpoints:
            checkpoints.save(jax.device_put(first, state_shardings(CONFIG, mesh)), 1.0)
    return folder


def assert_same(found, expected) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("after", MESHES)
@pytest.mark.parametrize("before", MESHES)
def test_a_state_goes_from_any_mesh_to_any_other_to_the_bit(saved, first, before, after):
    with Checkpoints(saved / before) as checkpoints:
        state = checkpoints.restore_state(CONFIG, 0, MESHES[after])
    assert_same(state, first)
    kernel = state.model.blocks[0].mlp.up.kernel[...]
    assert kernel.sharding.shard_shape(kernel.shape)[0] == kernel.shape[0] // MESHES[after].shape["fsdp"]


def test_what_is_restored_on_any_mesh_computes_the_next_loss(saved):
    rows = text(CONFIG.model, length=25, batch=8)
    losses = []
    for mesh in MESHES.values():
        with Checkpoints(saved / "2x4") as checkpoints:
            model = checkpoints.restore_state(CONFIG, 0, mesh).model
        batch = device_put_batch(rows.__getitem__, rows.shape, batch_sharding(mesh))
        losses.append(float(quick(mean_loss(next_token_loss, mesh))(model, batch)[0]))
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("before", ["1x8", "2x4"])
def test_the_model_alone_is_read_with_fewer_devices_than_saved_it(saved, first, before):
    with Checkpoints(saved / before) as checkpoints:
        model = checkpoints.restore_model(CONFIG, 0)
    assert isinstance(model, GPT)
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(model))
    assert_same(model, first.model)


def test_every_flipped_byte_of_the_numbers_is_found_and_named(saved, first, tmp_path):
    """Where the file still reads; in what describes the file, orbax's own error says that it is damaged."""
    damaged = shutil.copytree(saved / "1x1", tmp_path / "damaged")
    data = max((path for path in damaged.rglob("d/*") if path.is_file()), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    named = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 12):
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with Checkpoints(damaged) as checkpoints:
            try:
                state = checkpoints.restore_state(CONFIG, 0, MESHES["1x1"])
            except ValueError as error:
                message = str(error)
            else:  # a byte that no number is read from
                assert_same(state, first)
                continue
        assert "cannot be restored, it is damaged or of another config" in message
        named += "not what was saved: " in message
    assert named, "the checksums had nothing to find"


def test_a_changed_number_is_named(saved, monkeypatch):
    with Checkpoints(saved / "1x1") as checkpoints:
        manager = checkpoints._manager
        restore = manager.restore

        def flipped(*args, **kwargs):
            found = restore(*args, **kwargs)
            if set(found.keys()) == {"checksums"}:
                return found
            leaves = found["model"]
            bits = np.asarray(leaves["blocks.0.mlp.up.kernel"]).copy()
            bits.view(np.uint32)[3, 5] ^= 1  # the last bit of one number
            leaves["blocks.0.mlp.up.kernel"] = jnp.asarray(bits)
            return found

        monkeypatch.setattr(manager, "restore", flipped)
        with pytest.raises(ValueError, match="not what was saved: blocks.0.mlp.up.kernel"):
            checkpoints.restore_state(CONFIG, 0, MESHES["1x1"])


def test_a_checksum_sees_every_bit_and_no_sharding():
    numbers = np.random.default_rng(0).normal(size=(8, 24)).astype(np.float32)
    expected = checksums({"x": jnp.asarray(numbers)})["x"]
    bits = numbers.view(np.uint32).astype(object).ravel()  # once more with Python's whole numbers
    assert expected == sum(int(value) * (2 * place + 1) for place, value in enumerate(bits)) % 2**32
    for mesh in MESHES.values():
        cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "fsdp"))
        assert checksums({"x": jax.device_put(numbers, cut)})["x"] == expected
    for place in range(numbers.size):
        other = numbers.copy()
        other.view(np.uint32).ravel()[place] ^= 1 << (place % 32)
        assert int(checksum(jnp.asarray(other))) != expected
    assert int(checksum(jnp.asarray(numbers[::-1]))) != expected


def test_every_so_many_steps_are_kept(first, tmp_path):
    with Checkpoints(tmp_path, keep=1, keep_every=4) as checkpoints:
        for step in range(1, 10):
            checkpoints.save(first._replace(step=jnp.int32(step)), 3.0 if step == 3 else 4.0)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [3, 4, 8, 9]
