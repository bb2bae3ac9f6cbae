import dataclasses
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.metadata import array_metadata_store

from jaxgpt.model.parameters import named_parameters
from jaxgpt.parallel.mesh import one_device
from jaxgpt.training.checkpoint import Checkpoints, SaveFailed, by_path, from_paths
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import TrainState, create_state
from tests.variants import BASELINE, loud

# Orbax leaves coroutines unfinished where it fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("garbage_collected"),
]

CONFIG = TrainConfig(model=dataclasses.replace(BASELINE, num_layers=1, context_length=16))


def state(step: int) -> TrainState:
    """A state that differs from step to step in every part."""
    first = create_state(CONFIG, loud(CONFIG.model))
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(step, leaf.dtype), first._replace(loss_ema=jnp.float32(0)))


def save(folder, losses: dict[int, float], keep: int = 1) -> None:
    with Checkpoints(folder, keep) as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(state(step), loss)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1 to 4, of which 2 is the best."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save(folder, {1: 3.0, 2: 1.0, 3: 2.0, 4: math.inf})
    return folder


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_the_latest_and_the_best_are_kept(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["2", "4"]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest == 4


def test_as_many_of_the_latest_are_kept_as_asked_for(tmp_path):
    save(tmp_path, {1: 1.0, 2: 4.0, 3: 2.0, 4: 3.0}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3", "4"]


@pytest.mark.parametrize("step", [2, 4])
def test_a_state_is_restored_to_the_bit(folder, step):
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore_state(CONFIG, step, one_device())
        model = checkpoints.restore_model(CONFIG, step)
    assert jax.tree.structure(found) == jax.tree.structure(state(step))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(state(step)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    jax.tree.map(np.testing.assert_array_equal, model, found.model)


def test_every_leaf_has_a_path_of_its_own():
    leaves = by_path(state(1))
    assert len(leaves) == len(jax.tree.leaves(state(1)))
    assert {f"model.{name}" for name in named_parameters(state(1).model)} <= leaves.keys()
    jax.tree.map(np.testing.assert_array_equal, from_paths(state(2), leaves), state(1))


@pytest.mark.parametrize("item", ["model", "training"])
def test_a_truncated_checkpoint_is_one_clear_error_and_the_others_stay_usable(folder, tmp_path, item):
    damaged = shutil.copytree(folder, tmp_path / "checkpoints")
    data = largest_file(damaged / "4" / item)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with Checkpoints(damaged) as checkpoints:
        with pytest.raises(ValueError, match=r"checkpoints/4 cannot be restored.*there are steps \[2, 4\]"):
            checkpoints.restore_state(CONFIG, 4, one_device())
        assert int(checkpoints.restore_state(CONFIG, 2, one_device()).step) == 2


def test_a_checkpoint_that_misses_a_part_is_one_clear_error(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "checkpoints")
    shutil.rmtree(damaged / "4" / "training")
    with Checkpoints(damaged) as checkpoints, pytest.raises(ValueError, match="checkpoints/4 cannot be restored"):
        checkpoints.restore_state(CONFIG, 4, one_device())


@pytest.mark.parametrize(
    "changes",
    [{"num_layers": 2}, {"d_model": 16}, {"context_length": 8}, {"position": "rotary"}, {"num_kv_heads": 2}],
    ids=str,
)
def test_a_checkpoint_of_another_config_is_one_clear_error(folder, changes):
    other = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **changes))
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match="it is damaged or of another config"):
        checkpoints.restore_model(other, 4)


def test_what_is_no_checkpoint_is_not_the_latest(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    (copy / "9.orbax-checkpoint-tmp").mkdir()  # as a kill during a save leaves it
    for name in ("notes", "007", "\uff16", "-5", "1e3"):  # one is a six of another script
        (copy / name).mkdir()
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.latest == 4
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.latest is None


def test_a_checkpoint_that_a_run_deletes_while_it_is_read_gives_way_to_the_newest(folder, tmp_path, monkeypatch):
    copy, usual = shutil.copytree(folder, tmp_path / "checkpoints"), Checkpoints.restore_model

    def raced(self, config, step, mesh=None):
        if step == 4:  # the run has saved a newer one, and deletes this one
            (copy / "4").rename(copy / "6")
        return usual(self, config, step, mesh)

    monkeypatch.setattr(Checkpoints, "restore_model", raced)
    with Checkpoints(copy) as checkpoints:
        found = checkpoints.load_model(CONFIG)
    jax.tree.map(np.testing.assert_array_equal, found, state(4).model)


def test_what_killed_saves_left_is_swept_and_nothing_else(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    (copy / "9.orbax-checkpoint-tmp" / "model").mkdir(parents=True)
    with Checkpoints(copy) as checkpoints:
        checkpoints.sweep()
    assert {path.name for path in copy.iterdir()} == {path.name for path in folder.iterdir()}


def test_a_folder_that_is_deleted_under_a_save_is_a_failed_save(folder, tmp_path, monkeypatch):
    with Checkpoints(shutil.copytree(folder, tmp_path / "checkpoints")) as checkpoints:
        finalize = array_metadata_store.validate_all_array_metadatas

        def late(*args, **kwargs):
            shutil.rmtree(checkpoints.folder)
            return finalize(*args, **kwargs)

        monkeypatch.setattr(array_metadata_store, "validate_all_array_metadatas", late)
        with pytest.raises(SaveFailed, match="could not be written to .*make room, then resume"):  # noqa: PT012
            checkpoints.save(state(9), 1.0)
            checkpoints.wait()
