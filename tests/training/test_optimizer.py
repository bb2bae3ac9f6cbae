import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import abstract_model, named_parameters, path_name
from jaxgpt.training.config import OptimizerConfig
from jaxgpt.training.muon import muon_dimensions
from jaxgpt.training.optimizer import clip, decay_mask, make_optimizer, schedule
from tests.runs import quick
from tests.variants import BASELINE, VARIANTS

CONFIG = OptimizerConfig(learning_rate=1e-2, final_learning_rate=1e-3, warmup_steps=2, clip_norm=0.5)
STEPS = 5


def weights(seed: int, scale: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    """Parameters of a kind each: a matrix, a table, and a bias and a gain that must not decay."""
    random = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "embed": (5, 3), "bias": (2, 4), "scale": (3,)}
    return {name: (scale * random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


def rate(step: int) -> float:
    """The learning rate of CONFIG, written down again: linear from 0 to the peak, then half a cosine."""
    if step < CONFIG.warmup_steps:
        return CONFIG.learning_rate * step / CONFIG.warmup_steps
    done = (step - CONFIG.warmup_steps) / (STEPS - CONFIG.warmup_steps)
    span = CONFIG.learning_rate - CONFIG.final_learning_rate
    return CONFIG.final_learning_rate + span * (1 + math.cos(math.pi * done)) / 2


def numpy_adamw(start: dict, gradients: list[dict]) -> dict:
    """Algorithm 2 of Loshchilov & Hutter 2019 in float64, after clipping."""
    w = {name: value.astype(np.float64) for name, value in start.items()}
    m, v = ({name: np.zeros_like(value) for name, value in w.items()} for _ in range(2))
    for t, gradient in enumerate(gradients):
        norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        for name in w:
            g = gradient[name].astype(np.float64) * min(1, CONFIG.clip_norm / norm)
            m[name] = CONFIG.beta1 * m[name] + (1 - CONFIG.beta1) * g
            v[name] = CONFIG.beta2 * v[name] + (1 - CONFIG.beta2) * g**2
            step = m[name] / (1 - CONFIG.beta1 ** (t + 1))
            step /= np.sqrt(v[name] / (1 - CONFIG.beta2 ** (t + 1))) + 1e-8
            decay = CONFIG.weight_decay if name in ("kernel", "embed") else 0
            w[name] -= rate(t) * (step + decay * w[name])
    return w


def torch_adamw(start: dict, gradients: list[dict]) -> dict:
    torch = pytest.importorskip("torch", reason="torch is the oracle here, and not installed")
    w = {name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for name, value in start.items()}
    groups = [
        {"params": [w["kernel"], w["embed"]], "weight_decay": CONFIG.weight_decay},
        {"params": [w["bias"], w["scale"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(CONFIG.beta1, CONFIG.beta2), eps=1e-8)
    for t, gradient in enumerate(gradients):
        for name, value in gradient.items():
            w[name].grad = torch.tensor(value, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_(w.values(), CONFIG.clip_norm)
        for group in adamw.param_groups:
            group["lr"] = rate(t)
        adamw.step()
    return {name: value.detach().numpy() for name, value in w.items()}


@pytest.mark.parametrize("oracle", [numpy_adamw, torch_adamw])
def test_the_optimizer_is_adamw_with_clipping_and_decay_by_name(oracle):
    start = weights(0)
    # Norms above and below clip_norm, so that clipping both acts and does not.
    gradients = [weights(1 + t, scale) for t, scale in enumerate((1.0, 0.02, 3.0, 0.05, 1.0))]
    tx = make_optimizer(CONFIG, STEPS)
    update = quick(lambda g, *rest: tx.update(clip(g, optax.tree.norm(g), CONFIG.clip_norm), *rest))
    w = {name: jnp.asarray(value) for name, value in start.items()}
    state = tx.init(w)
    for gradient in gradients:
        updates, state = update(gradient, state, w)
        w = optax.apply_updates(w, updates)
    for name, expected in oracle(start, gradients).items():
        np.testing.assert_allclose(w[name], expected, atol=1e-6, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    "config",
    [
        *VARIANTS.values(),
        dataclasses.replace(BASELINE, tie_embeddings=False),
        dataclasses.replace(BASELINE, bias=False),
    ],
    ids=[*VARIANTS, "untied", "no biases"],
)
def test_every_parameter_of_every_variant_decays_or_not_by_its_name(config: GPTConfig):
    found = named_parameters(decay_mask(abstract_model(config)))
    # The rule in other words: tables at the top, and the matrices of linear maps; nothing that is added or scales.
    expected = {name: name in ("embed", "position", "head") or name.endswith(".kernel") for name in found}
    assert found == expected
    assert set(found.values()) == {True, False}


def test_muon_orthogonalises_the_matrices_of_the_blocks_and_nothing_else():
    config = dataclasses.replace(BASELINE, num_kv_heads=2, tie_embeddings=False)
    model = abstract_model(config)
    named = jax.tree_util.tree_leaves_with_path(
        muon_dimensions(model), is_leaf=lambda leaf: isinstance(leaf, MuonDimensionNumbers)
    )
    found = {path_name(path): tuple(leaf) for path, leaf in named}
    heads_out = (((0,), (1, 2)), ("attn.query.kernel", "attn.key.kernel", "attn.value.kernel"))  # [D, N, H]
    heads_in = (((0, 1), (2,)), ("attn.out.kernel",))  # [N, H, D]
    plain = (((0,), (1,)), ("mlp.up.kernel", "mlp.down.kernel"))
    expected = {
        f"blocks.{layer}.{name}": dimensions
        for layer in range(config.num_layers)
        for dimensions, names in (heads_out, heads_in, plain)
        for name in names
    }
    assert found == expected
    others = named_parameters(model).keys() - found.keys()  # AdamW's
    assert {"embed", "position", "head", "blocks.0.attn.query.bias", "norm.scale"} <= others


def test_biases_of_heads_do_not_decay_although_they_are_matrices():
    found = named_parameters(decay_mask(abstract_model(BASELINE)))
    assert abstract_model(BASELINE).blocks[0].attn.query.bias.ndim == 2
    assert not found["blocks.0.attn.query.bias"]


def test_a_parameter_that_the_table_does_not_name_is_an_error():
    with pytest.raises(ValueError, match=r"does 'gain' decay\? Add it to DECAYED"):
        decay_mask({"blocks": [{"kernel": 0, "gain": 0}]})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lion", lambda m, g: (np.sign(0.9 * m + 0.1 * g), 0.95 * m + 0.05 * g)),  # Chen et al. 2023, algorithm 2
        ("sgd", lambda m, g: (0.95 * m + g, 0.95 * m + g)),
    ],
)
def test_lion_and_sgd_are_what_their_papers_say(name, expected):
    config = OptimizerConfig(1e-2, 1e-2, warmup_steps=0, schedule="constant", name=name)
    start, gradients = weights(0), [weights(1), weights(2)]
    tx = make_optimizer(config, STEPS)
    w, state = {key: jnp.asarray(value) for key, value in start.items()}, tx.init(start)
    for gradient in gradients:
        updates, state = quick(tx.update)(gradient, state, w)
        w = optax.apply_updates(w, updates)
    for key, value in start.items():
        mine, momentum = value.astype(np.float64), np.zeros(value.shape)
        for gradient in gradients:
            direction, momentum = expected(momentum, gradient[key].astype(np.float64))
            mine -= 1e-2 * (direction + (0.1 * mine if key in ("kernel", "embed") else 0))
        np.testing.assert_allclose(w[key], mine, atol=1e-6, rtol=0, err_msg=key)


SCHEDULES = {  # of a run of 10 steps with 2 of warm-up, from 1 to 0.2
    "linear": [0, 0.5, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.2],
    "wsd": [0, 0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2],
    "constant": [0, 0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
}


@pytest.mark.parametrize(("name", "expected"), SCHEDULES.items(), ids=SCHEDULES)
def test_the_rates_of_each_schedule(name, expected):
    config = OptimizerConfig(1.0, 0.2, warmup_steps=2, schedule=name, cooldown=0.4)
    at = schedule(config, 10)
    np.testing.assert_allclose([float(at(step)) for step in range(12)], expected, atol=1e-6)


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_the_learning_rate_rises_from_zero_and_falls_along_a_cosine(step):
    assert float(schedule(CONFIG, STEPS)(step)) == pytest.approx(rate(step), abs=1e-8)


def test_the_learning_rate_at_its_landmarks():
    at = schedule(CONFIG, STEPS)
    assert float(at(0)) == 0
    assert float(at(CONFIG.warmup_steps)) == pytest.approx(CONFIG.learning_rate)
    assert float(at(STEPS)) == pytest.approx(CONFIG.final_learning_rate)
    assert float(at(STEPS + 100)) == pytest.approx(CONFIG.final_learning_rate)


def test_without_a_warmup_the_first_step_has_the_peak():
    config = dataclasses.replace(CONFIG, warmup_steps=0)
    assert float(schedule(config, STEPS)(0)) == pytest.approx(CONFIG.learning_rate)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_warmup_longer_than_the_run_still_gives_rates_of_its_range(steps, name):
    at = schedule(dataclasses.replace(CONFIG, warmup_steps=100, schedule=name), steps)
    rates = np.array([float(at(step)) for step in range(steps + 1)])
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert (rates <= CONFIG.learning_rate * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be above 0"),
        ({"clip_norm": -1.0}, "clip_norm=-1.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must not be below 0"),
        ({"warmup_steps": -1}, "warmup_steps=-1 must not be below 0"),
        ({"beta2": 1.0}, "beta2=1.0 must be at least 0 and below 1"),
        ({"momentum": -0.1}, "momentum=-0.1 must be at least 0 and below 1"),
        ({"cooldown": 0.0}, "cooldown=0.0 is a share of the steps: it must be above 0 and at most 1"),
        ({"name": "adam"}, "'adamw', 'muon', 'lion', 'sgd'"),
    ],
)
def test_a_setting_outside_its_range_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**wrong)
