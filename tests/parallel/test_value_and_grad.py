"""The same training on any mesh, and nothing sent that need not be."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxgpt.data import device_put_batch
from jaxgpt.inspect.collectives import collectives
from jaxgpt.model.inputs import positions_of
from jaxgpt.model.loss import distillation_loss, next_token_loss
from jaxgpt.model.parameters import abstract_model, named_parameters
from jaxgpt.ops.platform import compiling_for
from jaxgpt.parallel.combine import combine_thresholds
from jaxgpt.parallel.mesh import MeshConfig, check_batch, one_device
from jaxgpt.parallel.sharding import AXES, batch_axes, batch_sharding, bytes_per_device, parameter_specs, shard
from jaxgpt.parallel.value_and_grad import mean_loss, value_and_grad
from jaxgpt.parallel.view import Unsharder
from jaxgpt.training.config import OptimizerConfig, TrainConfig
from jaxgpt.training.state import abstract_trained_model
from jaxgpt.training.step import abstract_batch, abstract_state, compile_step, create_state, initial_state, make_step
from tests.runs import QUICK, quick
from tests.variants import BASELINE, loud, text

# Every axis has a size of its own, so that a shape tells what it is: 16 rows of 22 tokens, 2 on each of 8 devices.
MODEL = dataclasses.replace(BASELINE, d_model=64, d_mlp=96, vocab_size=200)
ALL = dataclasses.replace(MODEL, position="rotary", num_kv_heads=2, window=(5, None))
ROWS, LENGTH, STEPS = 16, 22, 20
CONFIG = TrainConfig(
    model=MODEL,
    optimizer=OptimizerConfig(1e-2, 1e-3, warmup_steps=2, clip_norm=0.5),
    batch_size=ROWS,
    microbatches=2,
    steps=STEPS,
)
MESHES = {"1x1": (1, 1), "8x1": (8, 1), "1x8": (1, 8), "2x4": (2, 4)}


def on(mesh: str, **changes) -> TrainConfig:
    return dataclasses.replace(CONFIG, mesh=MeshConfig(*MESHES[mesh], allow_idle=True), **changes)


def gradient_of(config: TrainConfig, mesh, loss=next_token_loss):
    how = {name: getattr(config, name) for name in ("microbatches", "zero", "grad_dtype")}
    remat = "none" if config.remat == "auto" else config.remat
    return value_and_grad(loss, mesh, remat=remat, **how)


def batch(number: int, mesh) -> jax.Array:
    rows = text(MODEL, length=LENGTH + 1, batch=ROWS, seed=number)
    return device_put_batch(rows.__getitem__, rows.shape, batch_sharding(mesh))


def trained(config: TrainConfig):
    """The losses and gradient norms of STEPS steps, and the state after them."""
    mesh = config.mesh.make()
    state = initial_state(config, mesh)
    step = make_step(config, mesh).lower(state, batch(0, mesh))
    step = step.compile(QUICK)
    losses = []
    for number in range(config.steps):
        state, metrics = step(state, batch(number % 4, mesh))
        losses.append((float(metrics.loss), float(metrics.grad_norm)))
    return np.array(losses), state


@cache
def alone(config: TrainConfig):
    return trained(config)


@cache
def compiled(config: TrainConfig):
    """The step, its operations optimised as usual; only the machine code is made quickly."""
    mesh = config.mesh.make()
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH + 1), jnp.int32, sharding=batch_sharding(mesh))
    step = make_step(config, mesh).lower(abstract_state(config, mesh), tokens)
    return step.compile(QUICK)


@pytest.mark.parametrize("mesh", ["1x8", *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("8x1", "2x4"))])
@pytest.mark.parametrize("model", [pytest.param(MODEL, marks=pytest.mark.slow), ALL], ids=["baseline", "all variants"])
def test_every_mesh_trains_the_same_model(model, mesh):
    """With accumulation, clipping and dropout."""
    model = dataclasses.replace(model, dropout=0.1)
    expected, there = alone(on("1x1", model=model))
    losses, here = trained(on(mesh, model=model))
    assert losses[-1, 0] < losses[0, 0] - 0.3
    assert (losses[:, 1] > CONFIG.optimizer.clip_norm).any()
    np.testing.assert_allclose(losses[:, 0], expected[:, 0], rtol=1e-5)
    parameters = named_parameters(there.model)
    for name, leaf in named_parameters(here.model).items():
        if not name.endswith("key.bias"):  # its gradient is rounding alone, and Adam divides by its size
            np.testing.assert_allclose(leaf, parameters[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"zero": 1}, marks=pytest.mark.slow),
        {"zero": 2, "remat": "full"},
        {"remat": "block", "model": dataclasses.replace(MODEL, tie_embeddings=False, bias=False, position="none")},
        {"remat": "full", "model": dataclasses.replace(ALL, scan_layers=True, num_layers=5)},
    ],
    ids=["zero 1", "zero 2, full", "block; untied, no bias, no positions", "full, scan"],
)
def test_every_way_gives_the_gradient_of_the_loss(changes):
    config = on("2x4", **changes)
    model = dataclasses.replace(config.model, scan_layers=False)
    mesh, alone = config.mesh.make(), one_device()
    cut = shard(loud(config.model), mesh)
    (loss, _), grads, norm = quick(gradient_of(config, mesh))(cut, batch(0, mesh))
    expected, wanted = quick(jax.value_and_grad(next_token_loss))(loud(model), batch(0, alone))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(norm) == pytest.approx(float(optax.tree.norm(wanted)), rel=1e-5)
    wanted = named_parameters(wanted)
    for name, gradient in named_parameters(grads).items():
        limit = 1e-5 * max(np.abs(wanted[name]).max(), 0.1)
        np.testing.assert_allclose(gradient, wanted[name], atol=limit, rtol=0, err_msg=name)


def test_the_loss_without_a_gradient_is_the_same():
    mesh = on("2x4").mesh.make()
    model = shard(loud(ALL), mesh)
    loss = quick(mean_loss(next_token_loss, mesh))(model, batch(0, mesh))[0]
    assert float(loss) == pytest.approx(float(quick(next_token_loss)(loud(ALL), batch(0, one_device()))), rel=1e-6)


def test_gradients_that_travel_in_bfloat16_are_near():
    grads = []
    for dtype in ("float32", "bfloat16"):
        config = on("2x4", grad_dtype=dtype)
        mesh = config.mesh.make()
        gradient = quick(gradient_of(config, mesh))(shard(loud(MODEL), mesh), batch(0, mesh))
        grads.append(np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(gradient[1])]))
    barrier_copies = np.linalg.norm(grads[1] - grads[0]) / np.linalg.norm(grads[0])
    assert 1e-4 < barrier_copies < 5e-3


def found(mesh: str, **changes):
    return collectives(compiled(on(mesh, **changes)).as_text())


def parameter_bytes(config=MODEL) -> int:
    return sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_model(config)))


def small_bytes() -> int:
    """Of the parameters that every device has whole."""
    return sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_model(MODEL)) if leaf.ndim == 1 or leaf.size <= 64)


def test_alone_nothing_is_sent():
    assert found("1x1") == []


def test_data_parallel_sums_the_gradient_once_and_sends_nothing_else():
    sent = found("8x1")
    assert {each.kind for each in sent} == {"all-reduce"}
    assert all(each.times == 1 for each in sent)  # not in every microbatch
    assert sum(each.bytes for each in sent) == pytest.approx(parameter_bytes(), rel=0.01)


@pytest.mark.parametrize("mesh", ["1x8", "2x4"])
def test_fully_sharded_gathers_scatters_and_sums_only_what_is_small(mesh):
    sent = found(mesh)
    assert {each.kind for each in sent} == {"all-gather", "reduce-scatter", "all-reduce"}
    # Nothing that is sent has an axis of the batch: rows, tokens, or both.
    axes = {axis for each in sent for shape in each.shapes for axis in shape}
    assert not axes & {LENGTH, LENGTH + 1, 2 * LENGTH, 4 * LENGTH, ROWS * LENGTH, ROWS * LENGTH // 2}
    large = parameter_bytes() - small_bytes()
    scattered = [each for each in sent if each.kind == "reduce-scatter"]
    assert sum(each.bytes for each in scattered) == large
    assert all(each.times == CONFIG.microbatches for each in scattered)
    reduced = sum(each.bytes for each in sent if each.kind == "all-reduce")
    shards = 0 if mesh == "1x8" else large / 4
    scalars = 4 * (2 + len(named_parameters(abstract_model(MODEL))))  # the loss, and squares for the norm
    assert small_bytes() + shards <= reduced <= small_bytes() + shards + scalars


def test_zero_1_sends_each_gradient_once():
    assert all(each.times == 1 for each in found("1x8", zero=1))


@pytest.mark.parametrize(("changes", "gathers"), [({"zero": 2}, 1), ({"zero": 3}, 2), ({"remat": "block"}, 2)])
def test_what_is_not_kept_is_gathered_again(changes, gathers):
    """In the program as written: the CPU's compiler sees that both gathers give the same, and keeps it."""
    config = on("1x8", microbatches=1, **changes)
    mesh = config.mesh.make()
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH + 1), jnp.int32, sharding=batch_sharding(mesh))
    text = make_step(config, mesh).lower(abstract_state(config, mesh), tokens).as_text()
    tables, kernels = 2, 6  # a block is written once, and called for each layer
    last = kernels if changes == {"zero": 3} else 0  # the last block is gathered once, since backward begins with it
    assert text.count('"stablehlo.all_gather"') == tables + gathers * kernels + last


def test_kernels_and_the_vocabulary_travel_in_the_dtype_of_computation_and_gradients_in_float32():
    config = on("1x8", model=dataclasses.replace(MODEL, dtype="bfloat16"), microbatches=1)
    mesh = config.mesh.make()
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH + 1), jnp.int32, sharding=batch_sharding(mesh))
    text = make_step(config, mesh).lower(abstract_state(config, mesh), tokens).as_text()
    gathers = [line for line in text.splitlines() if '"stablehlo.all_gather"' in line]
    # A block's kernels, forward and backward; those of the last block once; the table of the vocabulary.
    assert sum("xbf16>" in line for line in gathers) == 2 * 6 + 6 + 1
    assert sum("xf32>" in line for line in gathers) == 1  # the positions, which are added in float32
    scatters = text.split('"stablehlo.reduce_scatter"')[1:]
    assert len(scatters) == 2 + 2 * 6
    assert not any("bf16" in scatter[: scatter.index("}) : ")] for scatter in scatters)


def test_a_mesh_embeds_tokens_as_one_device_does_to_the_last_bit():
    """In bfloat16 a mesh rounds the table before it travels, and one device the rows that it reads."""
    model, mesh = loud(dataclasses.replace(MODEL, dtype="bfloat16")), on("1x8").mesh.make()
    unsharder, tokens = Unsharder.of(model, mesh), text(MODEL, batch=ROWS)
    rows = P(batch_axes(mesh))

    def embed(model, tokens):
        return model.embed_tokens(tokens, positions_of(tokens))

    on_mesh = jax.shard_map(
        lambda shards, tokens: embed(unsharder.view(shards), tokens),
        mesh=mesh,
        in_specs=(unsharder.specs, rows),
        out_specs=rows,
    )
    np.testing.assert_array_equal(quick(on_mesh)(shard(model, mesh), tokens), quick(embed)(model, tokens))


def test_a_mesh_of_gpus_sends_a_block_at_a_time():
    model = abstract_model(dataclasses.replace(MODEL, dtype="bfloat16"))
    sharded, small = 4 * 64 * 64 + 2 * 64 * 96, 4 * 64 + 96 + 64 + 4 * 64  # kernels; biases and norms
    assert combine_thresholds(model, on("1x8").mesh.make(), "float32") == {}  # CPUs
    with compiling_for("cuda"):
        found = {mesh: combine_thresholds(model, on(mesh).mesh.make(), "float32") for mesh in MESHES}
    names = [f"xla_gpu_{kind}_combine_threshold_bytes" for kind in ("all_gather", "reduce_scatter", "all_reduce")]
    assert found["1x1"] == {}
    assert found["8x1"] == {names[2]: 4 * (sharded + small)}
    for mesh, parts in (("1x8", 8), ("2x4", 4)):  # of results: of a scattered gradient a shard
        sizes = (2 * sharded, 4 * sharded // parts, 4 * (sharded // parts + small))
        assert found[mesh] == dict(zip(names, sizes, strict=True))


def test_a_device_holds_its_part_and_the_state_is_donated():
    whole, part = compiled(on("1x1")).memory_analysis(), compiled(on("1x8")).memory_analysis()
    replicated = 3 * small_bytes()  # parameters and two moments
    assert part.argument_size_in_bytes <= 1.05 / 8 * whole.argument_size_in_bytes + replicated
    for mesh in ("1x1", "8x1", "1x8", "2x4"):
        state = bytes_per_device(abstract_state(on(mesh), on(mesh).mesh.make()))
        assert compiled(on(mesh)).memory_analysis().alias_size_in_bytes == state


def test_the_state_is_created_where_it_lives():
    config = on("1x8")
    mesh = config.mesh.make()
    state, like = initial_state(config, mesh), abstract_state(config, mesh)
    jax.tree.map(lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim) or 1 / 0, state, like)
    alone = initial_state(on("1x1"), on("1x1").mesh.make())
    jax.tree.map(np.testing.assert_array_equal, state.model, alone.model)


def test_a_teacher_that_is_cut_teaches_the_same():
    student, teacher = (
        dataclasses.replace(MODEL, num_layers=1),
        dataclasses.replace(MODEL, num_layers=1, num_kv_heads=1),
    )
    config, mesh, alone = on("2x4", model=student), on("2x4").mesh.make(), one_device()
    both = shard(loud(student), mesh), batch(0, mesh), None, shard(loud(teacher), mesh)
    (loss, _), grads, _ = quick(gradient_of(config, mesh, distillation_loss))(*both)
    plain = quick(jax.value_and_grad(distillation_loss))
    expected, wanted = plain(loud(student), batch(0, alone), None, loud(teacher))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    wanted = named_parameters(wanted)
    for name, gradient in named_parameters(grads).items():
        np.testing.assert_allclose(
            gradient, wanted[name], atol=1e-5 * max(np.abs(wanted[name]).max(), 0.1), err_msg=name
        )


@pytest.mark.parametrize(("limit", "remat"), [(None, "none"), (1 << 40, "none"), (1, "block")])
def test_what_does_not_fit_the_device_is_computed_again(limit, remat):
    config = on("1x1", model=dataclasses.replace(MODEL, num_layers=1), microbatches=1, remat="auto")
    mesh = config.mesh.make()
    arguments = abstract_state(config, mesh), abstract_batch(config, mesh)
    assert compile_step(config, mesh, *arguments, limit=limit, options=QUICK)[1] == remat


def test_each_row_of_a_batch_is_read_for_the_devices_that_compute_it_and_no_more():
    rows, asked = text(MODEL, length=LENGTH + 1, batch=ROWS), []

    def read(some: slice) -> np.ndarray:
        asked.append(some)
        return rows[some]

    array = device_put_batch(read, rows.shape, batch_sharding(on("2x4").mesh.make()))
    np.testing.assert_array_equal(array, rows)
    assert sorted(row for some in asked for row in range(ROWS)[some]) == list(range(ROWS))


def test_a_batch_that_cannot_be_shared_out_is_refused_with_what_can():
    check_batch(48, 8, microbatches=3)
    with pytest.raises(ValueError, match=r"batch_size=36 .* 8 devices in microbatches=3: make it a multiple of 24, or"):
        check_batch(36, 8, microbatches=3)


@pytest.mark.parametrize("scan", [False, True])
def test_the_more_is_computed_again_the_less_is_kept(scan):
    deep = dataclasses.replace(MODEL, num_layers=9, scan_layers=scan)
    model = abstract_model(deep)
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH + 1), jnp.int32)

    def kept(remat: str) -> int:
        """Bytes between the forward and the backward pass, parameters left out."""

        def loss(model, tokens):
            return next_token_loss(Unsharder.of(model, one_device()).view(model, remat=remat), tokens)

        residuals = jax.eval_shape(lambda model, tokens: jax.vjp(loss, model, tokens)[1], model, tokens)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals)) - parameter_bytes(deep)

    stream = ROWS * LENGTH * MODEL.d_model * 4
    none, block, full = kept("none"), kept("block"), kept("full")
    assert none > 9 * 10 * stream  # a dozen arrays of that size or larger in each layer
    assert block < 9 * 3 * stream
    assert full < block - 4 * stream


def test_every_parameter_has_a_row_in_the_table_and_every_row_a_parameter():
    models = [MODEL, dataclasses.replace(MODEL, tie_embeddings=False)]
    names = {
        name.split(".", 2)[2] if name[:6] == "blocks" else name
        for m in models
        for name in named_parameters(abstract_trained_model(dataclasses.replace(CONFIG, model=m, lora=4)))
    }
    assert names == AXES.keys()


def test_a_parameter_without_a_row_is_an_error_that_names_it(monkeypatch):
    monkeypatch.delitem(AXES, "mlp.up.kernel")
    with pytest.raises(ValueError, match="which axes has blocks.0.mlp.up.kernel.*Add 'mlp.up.kernel' to AXES"):
        parameter_specs(abstract_model(MODEL), on("1x8").mesh.make())


def test_a_mesh_that_divides_no_axis_is_refused():
    odd = dataclasses.replace(MODEL, d_model=60, d_mlp=90)
    with pytest.raises(ValueError, match=r"fsdp=8 divides no axis of blocks.0.attn.key.kernel \[60, 4, 15\]"):
        parameter_specs(abstract_model(odd), on("1x8").mesh.make())


@pytest.mark.parametrize(
    ("config", "devices", "message"),
    [
        (MeshConfig(), 8, (8, 1)),
        (MeshConfig(fsdp=-1, data=2), 8, (2, 4)),
        (MeshConfig(fsdp=4), 8, (2, 4)),
        (MeshConfig(data=1, allow_idle=True), 8, (1, 1)),
        (MeshConfig(fsdp=3, allow_idle=True), 8, (2, 3)),
        (MeshConfig(data=2), 8, "leaves 6 of 8 devices idle"),
        (MeshConfig(data=4, fsdp=4), 8, "needs 16 devices, and there are 8"),
        (MeshConfig(fsdp=3), 8, "3 does not divide them"),
        (MeshConfig(fsdp=16), 8, "does not fit 8 devices"),
    ],
)
def test_the_mesh_uses_every_device_or_says_why_not(config, devices, message):
    if isinstance(message, tuple):
        assert config.sizes(devices) == message
    else:
        with pytest.raises(ValueError, match=message):
            config.sizes(devices)


def test_two_axes_cannot_both_be_what_remains():
    with pytest.raises(ValueError, match="only one of them"):
        MeshConfig(data=-1, fsdp=-1)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_bad_step_is_told_and_under_skip_changes_nothing(policy):
    config = dataclasses.replace(on("1x1", microbatches=1), on_nonfinite=policy)
    mesh = config.mesh.make()
    broken = jax.tree.map(jnp.copy, loud(MODEL))
    broken.norm.scale[...] = broken.norm.scale[...].at[0].set(jnp.nan)
    before = jax.tree.map(np.asarray, broken)
    step = make_step(config, mesh).lower(create_state(config, broken), batch(0, mesh))
    step = step.compile(QUICK)
    state, metrics = step(create_state(config, broken), batch(0, mesh))
    assert bool(metrics.nonfinite_or_spike)
    assert int(metrics.skipped) == int(state.skipped) == (policy == "skip")
    changed = any(
        (np.asarray(a) != b).any() for a, b in zip(jax.tree.leaves(state.model.blocks), jax.tree.leaves(before.blocks))
    )
    assert changed == (policy == "stop")


def test_a_jump_of_the_loss_beyond_the_spike_is_bad():
    config = dataclasses.replace(on("1x1", microbatches=1), spike=0.5, on_nonfinite="skip")
    mesh = config.mesh.make()
    state = initial_state(config, mesh)
    step = make_step(config, mesh).lower(state, batch(0, mesh)).compile(QUICK)
    reported = []
    for ema in (jnp.nan, 5.0):  # the loss of an untrained model is ln 200 = 5.3
        state, metrics = step(state._replace(loss_ema=jnp.float32(ema)), batch(0, mesh))
        reported.append(bool(metrics.nonfinite_or_spike))
        assert float(state.loss_ema) == pytest.approx(float(metrics.loss), abs=0.4)
    before = jax.tree.map(np.asarray, state)
    state, metrics = step(state._replace(loss_ema=jnp.float32(4.0)), batch(0, mesh))
    assert [*reported, bool(metrics.nonfinite_or_spike)] == [False, False, True]
    assert float(state.loss_ema) == 4.0
    for part in ("model", "opt_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(state, part), getattr(before, part))
