"""Any loss on any mesh: what it reads of the model is whole, and its gradient is that of one device."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.blocks import Blocks
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import named_parameters
from jaxgpt.parallel.mesh import MeshConfig, make_mesh
from jaxgpt.parallel.sharding import batch_sharding, parameter_sharding, shard
from jaxgpt.parallel.value_and_grad import mean_loss, value_and_grad
from jaxgpt.parallel.view import Unsharder
from tests.runs import quick
from tests.variants import loud, text

CONFIG = GPTConfig(vocab_size=61, context_length=16, num_layers=2, num_heads=4, d_model=32, dropout=0.2)
MESHES = {
    f"{data}x{fsdp}": MeshConfig(data, fsdp, allow_idle=True).make() for data, fsdp in ((1, 1), (8, 1), (1, 8), (2, 4))
}
KEY = jax.random.key(3)
ROWS = 16


def loss(model, tokens, key):
    """A penalty on every parameter, a block by its number, and metrics; dropout too."""
    cross_entropy = next_token_loss(model, tokens, key)
    penalty = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(model))
    last = jnp.abs(model.blocks[1].mlp.up.kernel[...]).sum() + sum(block.mlp.down.bias[0] for block in model.blocks)
    return cross_entropy + 1e-3 * penalty + 1e-2 * last, {"cross_entropy": cross_entropy, "penalty": penalty}


def tokens(mesh=None):
    rows = text(CONFIG, length=17, batch=ROWS)
    return rows if mesh is None else jax.device_put(rows, batch_sharding(mesh))


@cache
def plain():
    return quick(jax.value_and_grad(loss, has_aux=True))(loud(CONFIG), tokens(), KEY)


@pytest.mark.parametrize(
    ("mesh", "options"),
    [
        ("1x1", {}),
        ("1x1", {"microbatches": 2}),
        ("8x1", {}),
        ("1x8", {"microbatches": 2}),
        ("2x4", {}),
        ("2x4", {"zero": 1}),
    ],
    ids=str,
)
def test_a_loss_of_ones_own_has_the_gradient_of_one_device(mesh, options):
    mesh = MESHES[mesh]
    f = quick(value_and_grad(loss, mesh, **options))
    (value, aux), grads, norm = f(shard(loud(CONFIG), mesh), tokens(mesh), KEY)
    (expected, expected_aux), wanted = plain()
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert {name: float(each) for name, each in aux.items()} == pytest.approx(
        {name: float(each) for name, each in expected_aux.items()}, rel=1e-5
    )
    total = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(wanted)))
    assert float(norm) == pytest.approx(total, rel=1e-5)
    wanted, model = named_parameters(wanted), named_parameters(shard(loud(CONFIG), mesh))
    for name, gradient in named_parameters(grads).items():
        limit = 1e-5 * max(np.abs(wanted[name]).max(), 0.1)
        np.testing.assert_allclose(gradient, wanted[name], atol=limit, rtol=0, err_msg=name)
        assert gradient.sharding.is_equivalent_to(model[name].sharding, gradient.ndim)


def test_what_does_not_depend_on_the_rows_may_be_returned_too():
    def constant(model, tokens, key):
        return next_token_loss(model, tokens, key), {"one": jnp.float32(1), "small": model.norm.scale[...].sum()}

    mesh = MESHES["2x4"]
    (_, aux), _, _ = quick(value_and_grad(constant, mesh))(shard(loud(CONFIG), mesh), tokens(mesh))
    assert float(aux["one"]) == 1
    assert float(aux["small"]) == pytest.approx(float(loud(CONFIG).norm.scale[...].sum()), rel=1e-6)


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_loss_alone_is_the_same_also_in_microbatches(microbatches):
    mesh = MESHES["2x4"]
    value, aux = quick(mean_loss(loss, mesh, microbatches=microbatches))(shard(loud(CONFIG), mesh), tokens(mesh), KEY)
    (expected, expected_aux), _ = plain()
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(aux["cross_entropy"]) == pytest.approx(float(expected_aux["cross_entropy"]), rel=1e-6)


def test_a_key_for_each_row_is_used_as_it_is():
    mesh = MESHES["1x1"]
    keys = jax.vmap(lambda row: jax.random.fold_in(KEY, row))(jnp.arange(ROWS))
    values = [quick(mean_loss(next_token_loss, mesh))(loud(CONFIG), tokens(), key)[0] for key in (KEY, keys, None)]
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_a_view_flattens_to_whole_blocks_by_their_names():
    mesh = MESHES["1x8"]
    names = []

    def look(model, tokens, key):
        leaves, structure = jax.tree.flatten(model)
        again = jax.tree.unflatten(structure, leaves)
        assert isinstance(again.blocks, Blocks)
        names.extend((name, leaf.shape) for name, leaf in named_parameters(model).items())
        assert len(model.blocks) == 2
        assert model.blocks[-1:][0].mlp.up.kernel.shape == (32, 128)
        return next_token_loss(again, tokens, key)

    value, _ = jax.eval_shape(mean_loss(look, mesh), shard(loud(CONFIG), mesh), tokens(mesh))
    assert value.shape == ()
    assert names == [(name, leaf.shape) for name, leaf in named_parameters(loud(CONFIG)).items()]


def test_one_device_needs_no_view():
    model = loud(CONFIG)
    assert type(Unsharder.of(model, MESHES["1x1"]).view(model).blocks) is Blocks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero": 7}, "zero=7 is unknown; known: 1, 2, 3"),
        ({"remat": "x"}, "remat='x' is unknown; known: none, block, full"),
        ({"grad_dtype": "float16"}, "grad_dtype='float16' is unknown"),
        ({"microbatches": 0}, "microbatches=0 must be at least 1"),
    ],
)
def test_an_unknown_option_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        value_and_grad(loss, MESHES["1x1"], **options)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(
        UserError, match=r"batch_size=16 cannot be shared out to 8 devices in microbatches=3: make it a"
    ):
        value_and_grad(loss, MESHES["2x4"], microbatches=3)(loud(CONFIG), tokens(), None)


def test_the_public_mesh_takes_sizes():
    assert dict(make_mesh(fsdp=4).shape) == {"data": 2, "fsdp": 4}
    with pytest.raises(UserError, match="leaves 6 of 8 devices idle"):
        make_mesh(data=2)


def test_a_parameter_is_sharded_along_its_first_axis_that_divides_wherever_it_comes_from():
    mesh = MESHES["1x8"]
    expected = {
        ("embed", (128, 32)): ("fsdp",),
        ("blocks.1.attn.query.kernel", (32, 4, 8)): ("fsdp",),
        ("blocks.1.attn.out.kernel", (4, 8, 32)): (None, "fsdp"),
        ("blocks.1.mlp.up.kernel", (32, 128)): ("fsdp",),
        ("blocks.0.mlp.down.bias", (32,)): (),
    }
    for (path, shape), spec in expected.items():
        assert tuple(parameter_sharding(path, shape, mesh).spec) == spec, path
