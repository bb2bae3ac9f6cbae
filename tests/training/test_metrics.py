import dataclasses
import json
import math
import struct

import jax.numpy as jnp
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event

from jaxgpt.data import CharTokenizer
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.metrics import BadNumbers, MetricsLog, Reporter
from jaxgpt.training.run import Run
from jaxgpt.training.step import Metrics

CONFIG = TrainConfig.preset("tiny")
LINE = {"step": 3, "loss": 1.5, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_second": 1e6}


def events(folder):
    """The scalars in a folder's TensorBoard files: (step, name) to value. A record is length, sum, data, sum."""
    found = {}
    for path in folder.glob("events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            found |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return found


def written(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def reporter(tmp_path):
    run = Run(tmp_path, CONFIG, CharTokenizer("a"), "")
    with (tmp_path / "output.txt").open("w") as file, Reporter(run, 0, Console(file=file, width=40)) as reporter:
        yield reporter


def metrics(loss: float = 2.0) -> Metrics:
    bad = jnp.bool(not math.isfinite(loss))
    return Metrics(jnp.float32(loss), jnp.float32(0.5), jnp.float32(0.25), jnp.int32(0), jnp.int32(0), bad)


def test_a_line_goes_to_the_file_and_to_tensorboard(tmp_path):
    with MetricsLog(tmp_path, CONFIG, start=0) as log:
        log.write(LINE)
        assert written(tmp_path) == [LINE]  # at once, not when the file is closed
    assert events(tmp_path) == {(3, name): pytest.approx(LINE[name]) for name in LINE if name != "step"}


def test_a_line_has_the_fields_of_the_contract(reporter, tmp_path):
    reporter.report(1, metrics())
    reporter.report(2, metrics(), 3.0)
    fields = {"step", "loss", "tokens_per_second", "learning_rate", "grad_norm", "skipped", "data_offset"}
    assert [line.keys() for line in written(tmp_path)] == [fields, fields | {"val_loss"}]
    assert all(line["tokens_per_second"] > 0 for line in written(tmp_path))


def test_steps_that_are_undone_by_resuming_leave_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 2, "lo')
    with MetricsLog(tmp_path, CONFIG, start=3) as log:
        log.write({"step": 4, "loss": 1.0})
    assert [line["step"] for line in written(tmp_path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "val_loss"])
def test_a_number_that_is_not_finite_is_an_error_that_names_the_step(reporter, tmp_path, name, value):
    told, val_loss = metrics(), 3.0
    if name == "val_loss":
        val_loss = value
    else:
        told = told._replace(**{name: jnp.float32(value), "bad": jnp.bool(True)})
    with pytest.raises(BadNumbers, match=f"{name} is {value} (at|after) step 3: training stopped") as bad:
        reporter.report(3, told, val_loss)
    assert bad.value.step == 3
    assert written(tmp_path) == []


def test_a_jump_of_the_loss_is_told_as_one(reporter):
    with pytest.raises(BadNumbers, match="loss jumped to 9.000 at step 3"):
        reporter.report(3, metrics(9.0)._replace(bad=jnp.bool(True)))


def test_a_skipped_step_is_counted_and_leaves_no_number_that_json_lacks(tmp_path):
    run = Run(tmp_path, dataclasses.replace(CONFIG, on_nonfinite="skip"), CharTokenizer("a"), "")
    with Reporter(run, 0, Console(quiet=True)) as reporter:
        reporter.report(1, metrics(math.nan)._replace(skipped=jnp.int32(1)), 3.0)
    (line,) = written(tmp_path)
    assert line["skipped"] == 1
    assert line["loss"] is None
    assert line["val_loss"] == 3.0


def test_a_step_between_two_lines_is_checked_too(tmp_path, reporter):
    reporter._every = 10
    reporter.report(1, metrics())
    with pytest.raises(ValueError, match="loss is nan at step 2"):
        reporter.report(2, metrics(math.nan))
    assert written(tmp_path) == []


def test_piped_lines_are_plain_and_whole(reporter, tmp_path):
    reporter.report(1, metrics(), 3.0)
    reporter._display._console.file.flush()
    (line,) = (tmp_path / "output.txt").read_text().splitlines()
    assert line.startswith("step      1  loss 2.000  ")
    assert line.endswith(" tokens/s  validation loss 3.000")


def test_time_that_does_not_count_is_left_out_of_the_speed(reporter, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    reporter._clock = clock[0]
    clock[0] += 2.0
    with reporter.clock_stopped():
        clock[0] += 50.0
    reporter.report(1, metrics())
    assert written(tmp_path)[0]["tokens_per_second"] == CONFIG.batch_size * CONFIG.model.context_length / 2
