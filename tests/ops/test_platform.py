import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.ops import platform
from jaxgpt.ops.linear import linear
from jaxgpt.training.header import describe_dtype


@pytest.fixture
def without_units(monkeypatch):
    monkeypatch.setattr(platform, "has_bfloat16_units", lambda: False)


def test_a_cpu_that_emulates_bfloat16_is_told(without_units):
    assert describe_dtype("bfloat16") == "bfloat16, which this CPU emulates: float32 is faster"
    assert describe_dtype("float32") == "float32"


def test_a_cpu_that_emulates_bfloat16_widens_weights_of_fewer_bits_instead(without_units):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(3, 20)), jnp.float32)
    kernel = jnp.asarray(random.integers(-127, 128, size=(20, 4)), jnp.int8)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    np.testing.assert_allclose(linear(x, kernel), expected, rtol=1e-5, atol=1e-4)


def test_programs_of_a_cpu_have_the_options_that_this_jaxlib_knows(monkeypatch):
    names = list(platform.cpu_compiler_options(inference=True))
    assert names == ["xla_cpu_prefer_vector_width", "xla_cpu_experimental_ynn_fusion_type"]
    assert list(platform.cpu_compiler_options()) == names[:1]
    monkeypatch.setattr(platform, "PREFER_VECTOR_WIDTH", ("xla_cpu_of_another_version", 512))
    assert list(platform.cpu_compiler_options(inference=True)) == names[1:]


def test_a_vector_width_of_xla_flags_stays(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=128")
    assert platform.cpu_compiler_options() == {}


def test_programs_of_inference_are_compiled_with_them(monkeypatch):
    given, jit = [], jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, **options: given.append(options) or jit(function, **options))
    assert platform.platform_jit(lambda x: x + 1)(1) == 2
    assert given[-1]["compiler_options"] == platform.cpu_compiler_options(inference=True)


def test_programs_of_other_devices_have_none_of_them():
    with platform.compiling_for("cuda"):
        assert platform.cpu_compiler_options(inference=True) == {}
