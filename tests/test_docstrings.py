"""Every public name says what it does, and its example runs."""

import doctest
import importlib

import jax
import pytest

import converters
import jaxgpt
from jaxgpt.errors import UserError

PUBLIC = [f"{package.__name__}.{name}" for package in (jaxgpt, converters) for name in package.__all__]
HAVE_NO_ERRORS = {"jaxgpt.TrainResult", "jaxgpt.UserError", "jaxgpt.decay_mask", "jaxgpt.muon_dimensions"}
"""Names that refuse nothing a person can get wrong."""


def public(name: str) -> object:
    package, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(package), attribute)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    one_device = jax.devices()[:1]
    monkeypatch.setattr("jax.devices", lambda: one_device)
    found = public(name)
    scope = dict(vars(importlib.import_module(found.__module__)))
    example = doctest.DocTestFinder(recurse=False).find(found, name, globs=scope)[0]
    assert example.examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF)
    told: list[str] = []
    failed, _ = runner.run(example, out=told.append)
    assert failed == 0, "".join(told)


@pytest.mark.parametrize("name", sorted({*PUBLIC} - HAVE_NO_ERRORS))
def test_a_public_name_says_what_it_refuses(name):
    text = public(name).__doc__ or ""
    assert UserError.__name__ in text, f"{name} does not say when it raises UserError"


def test_all_public_names_are_listed():
    assert {*jaxgpt.__all__} <= {*dir(jaxgpt)}
    assert {*converters.__all__} <= {*dir(converters)}
    assert {*jaxgpt.__all__} == {*jaxgpt._HOME}
