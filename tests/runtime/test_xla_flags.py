import os
import subprocess
import sys
import warnings

import pytest

from jaxgpt.runtime import xla_flags

# Each row's sum of squares after a product with the identity; jax#39103 with its shapes.
SUMS = """
import {first}; {use}
import jax, jax.numpy as jnp, numpy as np
m, x = jnp.eye(3), np.random.default_rng(0).normal(size=(32769, 3)).astype(np.float32)
found = jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((m @ row) ** 2))(x))(x)
print(float(np.abs(np.asarray(found) - np.square(x.astype(np.float64)).sum(axis=1)).max()))
"""


def largest_error(first: str, use: str, **environment: str) -> float:
    program = SUMS.format(first=first, use=use)
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", program], env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.parametrize("use", ["pass", "jaxgpt.GPT", "import converters; converters.load_pretrained"])
def test_with_the_package_sums_are_right(use):
    assert largest_error("jax, jaxgpt", use) < 1e-4


@pytest.mark.skipif(xla_flags.version("jaxlib") != xla_flags.FAULTY_JAXLIB, reason="this jaxlib computes sums rightly")
def test_without_the_switch_they_are_not():
    assert largest_error("jax", "pass") > 0.01


def test_flags_of_the_user_stay(monkeypatch):
    monkeypatch.setattr(xla_flags, "version", lambda name: xla_flags.FAULTY_JAXLIB)
    monkeypatch.setattr(xla_flags, "_jax_has_started", lambda: False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    xla_flags.avoid_wrong_sums()
    xla_flags.avoid_wrong_sums()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=here {xla_flags.FLAG}=-reduce"
    monkeypatch.setenv("XLA_FLAGS", f"{xla_flags.FLAG}=")
    xla_flags.avoid_wrong_sums()
    assert os.environ["XLA_FLAGS"] == f"{xla_flags.FLAG}="


def test_a_switch_that_comes_too_late_is_told(monkeypatch):
    monkeypatch.setattr(xla_flags, "version", lambda name: xla_flags.FAULTY_JAXLIB)
    monkeypatch.setattr(xla_flags, "_jax_has_started", lambda: True)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with pytest.warns(UserWarning, match="set XLA_FLAGS=.*=-reduce in the environment, or use jaxgpt first"):
        xla_flags.avoid_wrong_sums()


def test_other_versions_are_left_alone(monkeypatch):
    monkeypatch.setattr(xla_flags, "version", lambda name: "0.11.0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with warnings.catch_warnings(action="error"):
        xla_flags.avoid_wrong_sums()
    assert "XLA_FLAGS" not in os.environ
