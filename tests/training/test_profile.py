"""Steps that are traced are the steps, and the trace opens in Perfetto and XProf."""

import contextlib
import gzip
import json

import jax.numpy as jnp
import pytest
from rich.console import Console

from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.profile import traced


def profile(folder, done, last=9, first=3):
    """What comes of the steps after `done`, and what a person is told."""
    steps = ((jnp.float32(number), number) for number in range(done + 1, 13))
    with (folder / "out").open("w") as out:
        console = Console(file=out)
        found = list(traced(steps, done, range(first, last + 1), folder, console, contextlib.nullcontext))
    return [number for _, number in found], (folder / "out").read_text()


@pytest.mark.parametrize(("done", "told"), [(0, "steps 3 to 9"), (4, "steps 5 to 9"), (9, "")])
def test_the_steps_of_the_range_that_are_left_are_traced(done, told, tmp_path):
    numbers, out = profile(tmp_path, done)
    assert numbers == list(range(done + 1, 13))
    assert told in out
    traces = list(tmp_path.glob("profile/plugins/profile/*/perfetto_trace.json.gz"))
    assert len(traces) == bool(told)
    for trace in traces:
        names = {event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
        assert "train" in names
        assert list(trace.parent.glob("*.xplane.pb"))


def test_a_trace_that_cannot_be_written_is_told_and_stops_nothing(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("jaxgpt.training.profile.say", said.append)
    (tmp_path / "profile").write_text("a file")
    assert profile(tmp_path, 0)[0] == list(range(1, 13))
    assert len(said) == 1
    assert said[0].startswith("jaxgpt: the trace cannot be written")


@pytest.mark.parametrize("given", ["10", "0:5", "5:3", "a:b", "3:50", ""])
def test_a_range_that_is_none_is_refused(given):
    with pytest.raises(UserError, match="must be FIRST:LAST, such as 10:20"):
        TrainConfig(steps=40, profile=given)
