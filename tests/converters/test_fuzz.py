"""Damaged and hostile files: our error or a model, nothing else, and nothing written."""

import contextlib
import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from converters import load_pretrained, save_pretrained
from jaxgpt.config import GPTConfig

pytestmark = pytest.mark.slow

TINY = GPTConfig(vocab_size=9, context_length=4, num_layers=1, num_heads=2, d_model=4)
SOURCES = {
    "gpt2": TINY,
    "starcoder2": dataclasses.replace(TINY, position="rotary", window=2, num_kv_heads=1),
    "llm.c": TINY,
    "nanogpt": dataclasses.replace(TINY, activation="gelu"),
}
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/x", "gelu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
edits = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from(["flip", "cut", "put"]), st.integers(1, 12), st.binary(max_size=12)),
    min_size=1,
    max_size=4,
)


def edit(raw, changes):
    """The bytes with some flipped, cut out, or put in between; half of the edits fall into the first 400."""
    raw = bytearray(raw)
    for where, kind, length, new in changes:
        at = int(2 * where * 400) if where < 0.5 else int(where * len(raw))
        at = min(at, max(0, len(raw) - 1))
        if kind == "flip" and raw:
            raw[at] ^= length
        elif kind == "cut":
            del raw[at : at + length]
        else:
            raw[at:at] = new
    return bytes(raw)


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def load_or_refuse(folder, root):
    before = snapshot(root)
    with contextlib.suppress(ValueError):
        load_pretrained(folder)
    assert snapshot(root) == before, "loading writes nothing"


@pytest.fixture(scope="module")
def folders(make_model, tmp_path_factory):
    pytest.importorskip("torch", reason="torch writes one of the files, and is not installed")
    root = tmp_path_factory.mktemp("fuzz")
    for name, config in SOURCES.items():
        save_pretrained(make_model(config), root / name, name, shard_bytes=1000)
        for extra in ("README.md", "tokenizer.json", "generation_config.json"):
            (root / name / extra).unlink(missing_ok=True)
    return root


@pytest.mark.parametrize("source", SOURCES)
def test_changed_bytes_never_do_more_than_raise(folders, source):
    @FUZZ
    @given(number=st.integers(0, 9), changes=edits)
    def run(number, changes):
        folder = folders / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders / source, folder)
        files = sorted(folder.iterdir())
        path = files[number % len(files)]
        path.write_bytes(edit(path.read_bytes(), changes))
        load_or_refuse(folder, folders)

    run()


@pytest.mark.parametrize("source", ["gpt2", "starcoder2"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_changed_fields_never_do_more_than_raise(folders, source, file):
    original = json.loads((folders / source / file).read_text())

    @FUZZ
    @given(choice=st.integers(0, 10**6), value=values, drop=st.booleans())
    def run(choice, value, drop):
        folder = folders / "changed"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders / source, folder)
        content = json.loads(json.dumps(original))
        target = content.get("weight_map", content) if choice % 5 else content
        name = sorted(target)[choice % len(target)]
        target.pop(name) if drop else target.update({name: value})
        (folder / file).write_text(json.dumps(content))
        load_or_refuse(folder, folders)

    run()


def test_changed_headers_never_do_more_than_raise(folders):
    path = next((folders / "gpt2").glob("*.safetensors"))
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])

    @FUZZ
    @given(choice=st.integers(0, 10**6), part=st.sampled_from(["dtype", "shape", "data_offsets", None]), value=values)
    def run(choice, part, value):
        names = sorted(header.keys() - {"__metadata__"})
        changed = json.loads(json.dumps(header))
        name = names[choice % len(names)]
        changed[name] = value if part is None else changed[name] | {part: value}
        assume(changed != header)
        new = json.dumps(changed).encode()
        folder = folders / "header"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders / "gpt2", folder)
        (folder / path.name).write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + size :])
        load_or_refuse(folder, folders)

    run()


def test_the_fuzzer_starts_from_folders_that_load(folders):
    for source in SOURCES:
        assert np.isfinite(load_pretrained(folders / source).norm.scale[...]).all()
