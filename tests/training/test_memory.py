"""What a run that starts from other weights holds on each device: its state, its teacher, and no copies of either."""

import contextlib
import dataclasses
from collections import Counter
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx

import jaxgpt
from jaxgpt.commands.plan import Arguments, compile_plan
from jaxgpt.launch import _weights
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import abstract_model
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import abstract_shards, bytes_per_device
from jaxgpt.parallel.value_and_grad import mean_loss
from jaxgpt.training.checkpoint import Checkpoints
from jaxgpt.training.state import abstract_state

PRESET = jaxgpt.TrainConfig.preset("tiny")
TINY = dataclasses.replace(
    PRESET,
    batch_size=8,
    mesh=MeshConfig(data=1, fsdp=8),
    model=dataclasses.replace(PRESET.model, num_layers=1, d_model=64),
)
IDS = np.arange(TINY.model.vocab_size).repeat(40)
SMALL = 6_000
"""Bytes of a batch, of metrics and of what one parameter needs on its way; a copy of the shards is 30,000."""


def held() -> Counter[int]:
    """Bytes of all arrays on each device; a buffer that several arrays share counts once."""
    buffers = {}
    for array in jax.live_arrays():
        with contextlib.suppress(RuntimeError):  # donated
            for shard in array.addressable_shards:
                buffers[shard.device.id, shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    found: Counter[int] = Counter()
    for (device, _), size in buffers.items():
        found[device] += size
    return found


class Peak:
    """The most bytes that a device holds beside what it held before, seen whenever a watched function is entered or
    left.
    """

    def __init__(self) -> None:
        self.before, self.bytes = held(), 0

    def look(self) -> int:
        now = held()
        found = max((now[device] - self.before[device] for device in now), default=0)
        self.bytes = max(self.bytes, found)
        return found

    def watched(self, owner: object, name: str) -> mock._patch:
        usual = getattr(owner, name)

        def wrapped(*arguments: object, **named: object) -> object:
            self.look()
            made = usual(*arguments, **named)
            self.look()
            return made

        return mock.patch.object(owner, name, wrapped)


@pytest.fixture
def source(tmp_path):
    jaxgpt.save(GPT(TINY.model, rngs=nnx.Rngs(0)), tmp_path / "source")
    return str(tmp_path / "source")


@pytest.fixture
def config(source):
    """Of a variant of the source, with the source as its teacher."""
    model = dataclasses.replace(TINY.model, num_kv_heads=2)
    return dataclasses.replace(TINY, init=source, distill=source, model=model, steps=2, eval_every=1)


@pytest.fixture
def state(config):
    """Bytes of the state on each device."""
    return bytes_per_device(abstract_state(config, config.mesh.make()))


@pytest.fixture
def shards():
    """Bytes of the source's parameters on each device."""
    found = bytes_per_device(abstract_shards(abstract_model(TINY.model), TINY.mesh.make()))
    assert found > 2 * SMALL
    return found


def test_weights_become_the_state_of_a_run_without_a_copy_on_any_device(config, state, shards):
    with jaxgpt.Trainer(dataclasses.replace(config, distill=None), data=IDS, vocabulary_by_hand=True) as trainer:
        weights, peak = _weights(trainer, None), Peak()
        with peak.watched(jax, "make_array_from_callback"), peak.watched(trainer, "take"):
            kept = weights()
        assert peak.look() < state + SMALL
        assert peak.bytes < state + shards + SMALL
        assert int(kept.step) == 0


def save_and_wait(save=Checkpoints.save):
    """On a CPU a save under way reads the state's arrays in place, so the next step cannot reuse their memory."""

    def wrapped(checkpoints, *arguments):
        save(checkpoints, *arguments)
        checkpoints.wait()

    return mock.patch.object(Checkpoints, "save", wrapped)


@pytest.mark.slow
def test_a_run_with_a_teacher_holds_its_state_and_the_teacher_and_at_most_a_copy_of_shards(
    config, state, shards, tmp_path
):
    peak, while_training = Peak(), []
    watched = ((jax, "make_array_from_callback"), (jax, "device_put"))
    methods = ((jaxgpt.Trainer, name) for name in ("take", "restore", "validate"))
    with contextlib.ExitStack() as patches:
        patches.enter_context(save_and_wait())
        for owner, name in (*watched, *methods):
            patches.enter_context(peak.watched(owner, name))
        jaxgpt.train(
            config,
            data=IDS,
            folder=tmp_path / "run",
            callbacks=[lambda *_: while_training.append(peak.look())],
            quiet=True,
            vocab_size=TINY.model.vocab_size,
        )
    assert max(while_training) < state + shards + SMALL
    assert peak.bytes < state + 2 * shards + SMALL


def test_a_plan_counts_the_teacher(source):
    few = dataclasses.replace(TINY, mesh=MeshConfig(data=1, fsdp=2))
    plain, distilled = (compile_plan(Arguments(dataclasses.replace(few, distill=d), devices=2)) for d in (None, source))
    assert plain.teacher == 0
    assert distilled.teacher == distilled.parameters
    assert distilled.needed >= plain.needed + distilled.teacher


def test_validation_is_computed_in_the_microbatches_of_the_step(monkeypatch):
    asked, alone = [], jaxgpt.make_mesh(devices=jax.devices()[:1])

    def watched(loss, mesh, microbatches):
        asked.append(microbatches)
        return mean_loss(loss, mesh, microbatches=microbatches)

    monkeypatch.setattr("jaxgpt.training.validation.mean_loss", watched)
    with jaxgpt.Trainer(dataclasses.replace(TINY, microbatches=4), mesh=alone, data=IDS) as trainer:
        trainer.validate(trainer.init())
    assert asked == [4]
