"""A manifest of any content: our error, or the data as they were prepared."""

import contextlib
import json
import random

import pytest

from jaxgpt.data.preparation.inputs import find
from jaxgpt.data.preparation.manifest import source_hash
from jaxgpt.data.preparation.prepare import prepare_shards
from jaxgpt.data.preparation.tokenise import Settings
from jaxgpt.data.prepared import open_prepared
from jaxgpt.data.tokenizer import CharTokenizer
from jaxgpt.errors import UserError

VALUES = (
    *(None, True, "", "x", "gpt2", "train", "../x", "/etc/passwd", [], {}, [1], {"name": "gpt2"}, {"name": "hf"}),
    *(0, -1, 3, 2**31, 2**63, 10**400, 0.5, float("nan"), float("inf")),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text.txt").write_text("abcd" * 200)
    inputs = find([str(tmp_path / "text.txt")]).inputs
    prepare_shards(inputs, tmp_path / "out", CharTokenizer("abcd"), Settings(validation=0.0), val_tokens=100, workers=0)
    return tmp_path / "out"


def places(value, path=()):
    """The paths of all values in nested lists and dicts."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from places(inner, (*path, name))


def test_any_field_of_a_manifest_may_hold_anything(folder):
    whole = json.loads((folder / "manifest.json").read_text())
    expected = open_prepared(folder)
    rng, opened = random.Random(0), 0
    for path in list(places(whole)):
        for value in rng.sample(VALUES, 8):
            changed = json.loads(json.dumps(whole))
            owner = changed
            for name in path[:-1]:
                owner = owner[name]
            owner[path[-1]] = value
            with contextlib.suppress(TypeError, KeyError, AttributeError):
                changed["source_hash"] = source_hash(changed["tokenizer"], changed["shards"])
            (folder / "manifest.json").write_text(json.dumps(changed))
            try:
                found = open_prepared(folder)
            except UserError:
                continue
            opened += 1
            assert found.tokenizer.spec() == expected.tokenizer.spec(), (path, value)
            for split in ("train", "validation"):
                assert found.bytes_per_token_of(split) == expected.bytes_per_token_of(split), (path, value)
    assert opened > 10  # what nothing is read from
