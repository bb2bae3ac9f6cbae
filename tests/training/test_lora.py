"""LoRA: adapters alone are trained, on any mesh; at first they change nothing, and merged they compute the same."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxgpt
from converters import save_pretrained
from converters.peft import save_adapter
from jaxgpt.errors import UserError
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.memory import memory_needed
from jaxgpt.model.lora import add_adapters, is_adapter, merge_adapters
from jaxgpt.model.loss import next_token_loss
from jaxgpt.model.parameters import abstract_model, named_parameters, path_name
from jaxgpt.parallel.mesh import MeshConfig, one_device
from jaxgpt.parallel.value_and_grad import value_and_grad
from jaxgpt.training.config import OptimizerConfig, TrainConfig
from jaxgpt.training.state import abstract_batch, abstract_state, state_from, with_adapters
from jaxgpt.training.step import compile_step, make_step
from tests.runs import QUICK, quick
from tests.variants import BASELINE, forward, loud, text

MODEL = dataclasses.replace(BASELINE, d_model=64, d_mlp=96, vocab_size=200)
CONFIG = TrainConfig(
    model=MODEL, optimizer=OptimizerConfig(1e-2, 1e-3, warmup_steps=2), batch_size=16, microbatches=2, steps=4, lora=4
)


def trained_adapters(config):
    """A loud model whose adapters are as loud: B is not zero."""
    model, random = add_adapters(loud(config), 4, 12.0, rngs=nnx.Rngs(1)), np.random.default_rng(0)

    def fill(path, leaf):
        is_b = path_name(path).endswith("adapter.b")
        return jnp.asarray(0.1 * random.normal(size=leaf.shape), leaf.dtype) if is_b else leaf

    return jax.tree_util.tree_map_with_path(fill, model)


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "bfloat16"},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"scan_layers": True, "window": (5, None)}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_at_first_the_loss_is_the_models_own_to_the_bit(changes):
    config = dataclasses.replace(MODEL, **changes)
    adapted = add_adapters(loud(config), 4, 8.0, rngs=nnx.Rngs(1))
    assert adapted.blocks[0].mlp.up.kernel.dtype == config.dtype
    loss = quick(next_token_loss)
    assert float(loss(adapted, text(config))) == float(loss(loud(config), text(config)))


def test_merged_the_adapters_compute_the_same():
    model, tokens = trained_adapters(MODEL), jnp.asarray(text(MODEL))
    adapted, merged, base = (forward(each, tokens) for each in (model, merge_adapters(model), loud(MODEL)))
    assert np.abs(adapted - base).max() > 0.1
    np.testing.assert_allclose(adapted, merged, atol=2e-4)  # logits reach 20


def test_generation_and_saving_merge_the_adapters(tmp_path):
    model = trained_adapters(dataclasses.replace(MODEL, dtype="bfloat16"))
    prompt = text(MODEL, length=5, batch=1)
    found, expected = (jaxgpt.generate(each, prompt, 8, temperature=0) for each in (model, merge_adapters(model)))
    np.testing.assert_array_equal(found, expected)
    jaxgpt.save(model, tmp_path / "saved")
    kernel = merge_adapters(model).blocks[1].attn.out.kernel
    np.testing.assert_array_equal(jaxgpt.load(tmp_path / "saved").blocks[1].attn.out.kernel, kernel)


@pytest.mark.filterwarnings("ignore")  # PEFT's, about transformers
@pytest.mark.parametrize("kind", ["gpt2", pytest.param("starcoder2", marks=pytest.mark.slow)])
def test_peft_opens_the_adapters_and_has_their_gradient(kind, tmp_path):
    """PEFT in float64 is the oracle, of the logits, the loss, and the gradient by each factor."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = dataclasses.replace(MODEL, position="rotary" if kind == "starcoder2" else "learned")
    model, tokens = trained_adapters(config), text(config)
    save_pretrained(loud(config), tmp_path / "base", kind)
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "base"), kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter", is_trainable=True).double().eval()
    inputs = torch.from_numpy(tokens.astype(np.int64))
    found = theirs(input_ids=inputs, labels=inputs, use_cache=False)
    found.loss.backward()
    grads = {name: weight.grad.numpy() for name, weight in theirs.named_parameters() if weight.grad is not None}
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(forward(model, tokens), found.logits.detach().numpy(), atol=2e-4)
        gradient = value_and_grad(next_token_loss, one_device(), trained=is_adapter)
        (loss, _), ours, _ = quick(gradient)(model, jnp.asarray(tokens))
    assert float(loss) == pytest.approx(float(found.loss), abs=1e-5)
    expected = {name: grad for layer in range(2) for name, grad in _theirs(kind, layer, grads).items()}
    assert expected.keys() == named_parameters(ours).keys()
    for name, grad in named_parameters(ours).items():
        np.testing.assert_allclose(grad, expected[name].T, atol=2e-5, err_msg=name)


def _theirs(kind, layer, grads):
    """The gradients of PEFT's factors of a layer, [r, in] and [out, r], by our names."""

    def pair(module):
        return [next(grad for name, grad in grads.items() if f".{layer}.{module}.lora_{ab}" in name) for ab in "AB"]

    if kind == "starcoder2":
        names = {"attn.query": "self_attn.q_proj", "attn.key": "self_attn.k_proj", "attn.value": "self_attn.v_proj"}
        names |= {"attn.out": "self_attn.o_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    else:
        names = {"attn.out": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}
    found = {ours: pair(theirs) for ours, theirs in names.items()}
    if kind == "gpt2":  # query, key and value have a block each of the fused factors
        (a, b), D = pair("attn.c_attn"), MODEL.d_model
        for number, part in enumerate(("attn.query", "attn.key", "attn.value")):
            ranks = slice(4 * number, 4 * number + 4)
            found[part] = [a[ranks], b[D * number : D * (number + 1), ranks]]
    return {f"blocks.{layer}.{part}.adapter.{ab}": grad for part, both in found.items() for ab, grad in zip("ab", both)}


def train(config):
    """The losses of four steps on the loud model, and the state after them."""
    mesh = config.mesh.make()
    state = state_from(config, mesh, jaxgpt.shard(loud(config.model), mesh))
    step, losses = make_step(config, mesh).lower(state, abstract_batch(config, mesh)).compile(QUICK), []
    for number in range(config.steps):
        rows = text(config.model, length=config.model.context_length + 1, batch=16, seed=number % 2)
        state, metrics = step(state, jax.device_put(rows, abstract_batch(config, mesh).sharding))
        losses.append(float(metrics.loss))
    return losses, state


def test_adapters_alone_are_trained():
    losses, state = train(CONFIG)
    assert losses[-1] < losses[0]
    base, adapted = named_parameters(loud(MODEL)), named_parameters(state.model)
    for name, leaf in adapted.items():
        if not is_adapter(name):
            np.testing.assert_array_equal(leaf, base[name], err_msg=name)
        elif name.endswith(".b"):
            assert np.abs(leaf).max() > 0, name
    adapters = sum(leaf.size for name, leaf in adapted.items() if is_adapter(name))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * adapters + 2  # Adam's, and two counters


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"zero": 1}, {"remat": "block"}, {"model": dataclasses.replace(MODEL, scan_layers=True), "remat": "full"}],
    ids=["zero 1", "block", "full, scan"],
)
def test_every_mesh_and_strategy_trains_the_same_adapters(changes):
    expected, there = train(CONFIG)
    found, here = train(dataclasses.replace(CONFIG, mesh=MeshConfig(2, 4, allow_idle=True), **changes))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert here.model.blocks[0].mlp.up.kernel.sharding.spec[0] == "fsdp"
    theirs = named_parameters(there.model)
    for name, leaf in named_parameters(here.model).items():
        np.testing.assert_allclose(leaf, theirs[name], atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_the_program_has_no_gradient_of_what_is_not_trained():
    """Neither the bytes of one, nor a product that would be the gradient of a kernel or of the table."""
    model = dataclasses.replace(MODEL, num_layers=1, d_model=256, d_mlp=1024, vocab_size=4000)
    needed, gradients = {}, {}
    shapes_of_weights = {"f32[4096,256]", "f32[256,1024]", "f32[1024,256]"}  # the table with its padding rows, two maps
    for lora in (None, 4):
        config = dataclasses.replace(CONFIG, model=model, lora=lora, batch_size=2, microbatches=2)
        shapes = abstract_state(config, one_device()), abstract_batch(config, one_device())
        compiled, _ = compile_step(config, one_device(), *shapes, options=QUICK)
        needed[lora] = memory_needed(compiled)
        products = re.findall(r"= (f32\[[\d,]+\])\S* (?:dot|fusion|while|add|custom-call)\(", compiled.as_text())
        gradients[lora] = shapes_of_weights & {*products}
    assert gradients == {None: shapes_of_weights, 4: set()}
    weights = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_model(model)))
    assert needed[None] - needed[4] > 3 * weights  # Adam's two means, and the sum over microbatches


def bytes_below(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_a_run_of_adapters_is_opened_as_any_other(tmp_path):
    base = jaxgpt.GPT(jaxgpt.GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    settings = {"data": list(range(20)) * 40, "quiet": True, "eval_every": 2, "mesh": one_device()}
    whole = jaxgpt.train("tiny", model=base, folder=tmp_path / "whole", steps=4, lora=4, **settings)
    stopped = {"callbacks": [lambda step, *_: "stop" if step == 2 else None], **settings}
    jaxgpt.train("tiny", model=base, folder=tmp_path / "run", steps=4, lora=4, **stopped)
    result = jaxgpt.train(folder=tmp_path / "run", resume=True, steps=4, **settings)
    assert jax.tree.structure(result.model) == jax.tree.structure(base)
    for model in (whole.model, jaxgpt.load(tmp_path / "run"), jaxgpt.load(tmp_path / "run", step="best")):
        assert named_parameters(model).keys() == named_parameters(base).keys()
    jax.tree.map(np.testing.assert_array_equal, result.model, jaxgpt.load(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, result.model, whole.model)
    sizes = {step: bytes_below(tmp_path / "run/checkpoints" / str(step) / "model") for step in (0, 2, 4)}
    assert sizes[4] < sizes[0] / 2  # the weights are in the first alone
    np.testing.assert_array_equal(result.model.embed, base.embed)
    assert not np.array_equal(result.model.blocks[0].mlp.up.kernel, base.blocks[0].mlp.up.kernel)
    for changed, words in (({"lora": 8}, "lora=4, not 8"), ({"dtype": "bfloat16"}, "model.dtype='float32', not")):
        with pytest.raises(UserError, match=words):
            jaxgpt.train(folder=tmp_path / "run", resume=True, steps=6, **changed, **settings)


def test_alpha_without_a_rank_is_refused():
    with pytest.raises(UserError, match="beside it lora, the rank"):
        TrainConfig(lora_alpha=3.0)


def test_alpha_is_twice_the_rank_unless_it_is_given():
    scales = [
        with_adapters(dataclasses.replace(CONFIG, lora_alpha=alpha), loud(MODEL)).blocks[0].mlp.up.adapter.scale
        for alpha in (None, 4.0)
    ]
    assert scales == [2.0, 1.0]


def test_adapters_of_no_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="name them by --init"):
        jaxgpt.train("tiny", data=list(range(20)) * 40, folder=tmp_path / "run", lora=4)


def test_a_frozen_weight_takes_a_third_less_arithmetic():
    config = jaxgpt.GPTConfig(vocab_size=10, context_length=8, num_layers=1, num_heads=2, d_model=4, d_mlp=5)
    weights = 4 * 4 * 4 + 2 * 4 * 5 + 10 * 4
    assert flops_per_token(config) - flops_per_token(config, frozen=True) == 2 * weights
