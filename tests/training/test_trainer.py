"""Trainer and jaxgpt.train: any loss, optimizer, data; saved and restored on any mesh; runs that are locked."""

import dataclasses
import math
import os
import re
import shutil
import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from optax.contrib import muon

import jaxgpt
from jaxgpt.errors import UserError
from jaxgpt.launch import _teacher
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.lock import run_lock
from jaxgpt.training.step import train_step
from tests.runs import quick_compilation

IDS = list(range(20)) * 60
TINY = dataclasses.replace(
    jaxgpt.TrainConfig.preset("tiny"),
    model=jaxgpt.GPTConfig(vocab_size=20, context_length=8, num_layers=1, num_heads=2, d_model=8),
    batch_size=8,
    steps=6,
    eval_every=2,
    eval_batches=1,
    keep_checkpoints=1,
)
ALONE = {"mesh": jaxgpt.make_mesh(data=1, devices=jax.devices()[:1]), "quiet": True, "data": IDS}


@pytest.fixture(autouse=True)
def quickly():
    with quick_compilation():
        yield


def loss(model, tokens, key):
    value = jaxgpt.next_token_loss(model, tokens, key)
    return value, {"doubled": 2 * value}


def test_a_loss_of_ones_own_reports_its_metrics_and_a_callback_stops(tmp_path):
    seen = []

    def stop_at_four(step, metrics, state, trainer):
        seen.append((step, metrics["doubled"], int(state.step)))
        return "stop" if step == 4 else None

    result = jaxgpt.train(TINY, folder=tmp_path / "run", loss=loss, callbacks=[stop_at_four], **ALONE)
    assert [line["step"] for line in result.history] == [0, 1, 2, 3, 4]
    assert [line["doubled"] == pytest.approx(2 * line["loss"]) for line in result.history[1:]] == 4 * [True]
    assert [(step, at) for step, _, at in seen] == [(n, n) for n in (1, 2, 3, 4)]
    with pytest.raises(UserError, match="began with loss=loss, and would go on with the config's loss"):
        jaxgpt.train(folder=tmp_path / "run", resume=True, **ALONE)


def test_the_state_of_any_optimizer_is_sharded_saved_and_restored_on_another_mesh(tmp_path):
    rule = {
        "optimizer": muon(1e-2, muon_weight_dimension_numbers=jaxgpt.muon_dimensions),
        "data": IDS,
        "folder": tmp_path / "run",
    }
    with jaxgpt.Trainer(TINY, mesh=jaxgpt.make_mesh(data=1, fsdp=8), **rule) as trainer:
        state, _ = trainer.step(trainer.init(), trainer.batch(0))
        specs = [leaf.sharding.spec for leaf in jax.tree.leaves(state.opt_state)]
        assert any("fsdp" in spec for spec in specs)
        trainer.save(state, 1.5)
    with jaxgpt.Trainer(TINY, mesh=ALONE["mesh"], **rule) as trainer:
        found = trainer.restore("best")
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(found), jax.tree.leaves(state))
    with (
        jaxgpt.Trainer(TINY, mesh=ALONE["mesh"], data=IDS) as other,
        Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints,
        pytest.raises(UserError, match="saved with another optimizer"),
    ):
        checkpoints.restore_state(other.config, 1, other.mesh)


def test_the_newest_and_the_best_are_kept_over_resumes(tmp_path):
    result = jaxgpt.train(TINY, folder=tmp_path / "run", **ALONE)
    for steps in (8, 10):
        jaxgpt.train(folder=tmp_path / "run", resume=True, steps=steps, **ALONE)
    with Checkpoints(result.run.checkpoints) as checkpoints:
        assert checkpoints.steps == sorted({checkpoints.best, 10})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    """Of the same config, so that only the run's id tells them apart."""
    one, other = (jaxgpt.train(TINY, folder=tmp_path / name, steps=2, **ALONE).run for name in ("one", "other"))
    shutil.rmtree(other.checkpoints / "2")
    shutil.copytree(one.checkpoints / "2", other.checkpoints / "2")
    with pytest.raises(UserError, match=r"other/checkpoints/2 is a checkpoint of another run; move it away, or to the"):
        jaxgpt.train(folder=other.folder, resume=True, steps=3, **ALONE)


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 85899345920 bytes."),
            UserError,
            r"out of memory: make --batch-size smaller, raise --microbatches \(now 1\), use --remat block, or",
        ),
        (MemoryError(), UserError, "out of memory: make --batch-size smaller"),
        (jax.errors.JaxRuntimeError("INTERNAL: ncclAllReduce failed"), jax.errors.JaxRuntimeError, "ncclAllReduce"),
    ],
    ids=["device", "host", "another error"],
)
def test_a_step_without_memory_says_what_helps(error, expected, message, monkeypatch):
    def fail(*_):
        raise error

    with jaxgpt.Trainer(TINY, mesh=ALONE["mesh"], data=IDS) as trainer:
        monkeypatch.setitem(vars(trainer), "compiled", (fail, "none"))
        with pytest.raises(expected, match=message):
            trainer.step(None, trainer.batch(0))


def test_a_teacher_is_read_straight_onto_its_shards_once(tmp_path):
    model = jaxgpt.GPT(TINY.model, rngs=nnx.Rngs(0))
    jaxgpt.save(model, tmp_path / "teacher")
    config, mesh = dataclasses.replace(TINY, distill=str(tmp_path / "teacher")), jaxgpt.make_mesh(data=2, fsdp=4)
    teacher = _teacher(config, mesh)
    assert teacher.blocks[0].mlp.up.kernel.sharding.num_devices == 8
    assert math.prod(teacher.blocks[0].mlp.up.kernel.sharding.shard_shape((8, 32))) == 8 * 32 // 4
    kept = jaxgpt.Trainer(config, mesh=mesh, data=IDS, teacher=teacher).teacher
    assert all(now is before for now, before in zip(jax.tree.leaves(kept), jax.tree.leaves(teacher), strict=True))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(kept), jax.tree.leaves(model))


def test_steps_of_muon_are_the_same_on_every_mesh():
    # A key's bias has no gradient but rounding, which Adam divides by itself: without biases.
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, bias=False))

    def after_three_steps(mesh):
        optimizer = muon(
            0.02, weight_decay_mask=jaxgpt.decay_mask, muon_weight_dimension_numbers=jaxgpt.muon_dimensions
        )
        with jaxgpt.Trainer(config, mesh=mesh, data=IDS, optimizer=optimizer) as trainer:
            state = trainer.init()
            for i in range(3):
                state, _ = trainer.step(state, trainer.batch(i))
            return jax.tree.map(np.asarray, jax.tree.leaves(state.model))

    alone, sharded = after_three_steps(ALONE["mesh"]), after_three_steps(jaxgpt.make_mesh(data=2, fsdp=4))
    for one, other in zip(alone, sharded, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


def test_a_run_in_use_is_refused_by_its_holder(tmp_path):
    jaxgpt.train(TINY, folder=tmp_path / "run", **ALONE)
    holder = f"is in use by process {os.getpid()} on {re.escape(socket.gethostname())}: wait until it ends, stop it, or"
    with run_lock(tmp_path / "run"), pytest.raises(UserError, match=holder):
        jaxgpt.train(folder=tmp_path / "run", resume=True, steps=8, **ALONE)


@pytest.mark.parametrize("left", [["samples"], ["samples", "checkpoints", "checkpoints/0"], [".lock"]])
def test_what_a_killed_creation_leaves_counts_as_new(tmp_path, left):
    for name in ["", *left]:
        (tmp_path / "run" / name).mkdir() if name != ".lock" else (tmp_path / "run" / name).touch()
    assert jaxgpt.train(TINY, folder=tmp_path / "run", steps=1, **ALONE).history[-1]["step"] == 1


@pytest.mark.slow
def test_a_skipped_step_leaves_out_the_whole_update_and_the_mean_of_the_loss():
    config = dataclasses.replace(TINY, on_nonfinite="skip", spike=0.5)
    with jaxgpt.Trainer(config, mesh=ALONE["mesh"], data=IDS) as trainer:
        state, _ = trainer.step(trainer.init(), trainer.batch(0))
        state = state._replace(loss_ema=jnp.float32(0))  # so that the next loss is a spike
        before = jax.tree.map(np.asarray, state)
        after, metrics = train_step(state, trainer.batch(1), config=config, mesh=trainer.mesh)
        assert bool(metrics.nonfinite_or_spike)
        assert (int(after.step), int(after.skipped), float(after.loss_ema)) == (2, 1, 0)
        jax.tree.map(np.testing.assert_array_equal, (after.model, after.opt_state), (before.model, before.opt_state))
        _, following = train_step(after, trainer.batch(2), config=config, mesh=trainer.mesh)
        assert float(following.learning_rate) == float(metrics.learning_rate)


def test_token_ids_beyond_the_vocabulary_are_refused():
    with pytest.raises(UserError, match="data has token 20, and vocab_size=20"):
        jaxgpt.Trainer(TINY, data=[*IDS, 20])


def test_fields_are_overridden_together_and_an_unknown_one_gets_a_suggestion(tmp_path):
    result = jaxgpt.train(
        TINY, folder=tmp_path / "run", steps=0, batch_size=6, microbatches=3, model__window=4, **ALONE
    )
    assert (result.run.config.microbatches, result.run.config.model.window) == (3, 4)
    with pytest.raises(UserError, match="'learning_rat' is no field of TrainConfig; did you mean learning_rate"):
        jaxgpt.train(TINY, learning_rat=1, **ALONE)
    assert math.isfinite(result.history[0]["val_loss"])
