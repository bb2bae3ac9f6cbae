import csv
import dataclasses
import json
import math
import os
import re
import struct
import sys
import threading
import types

import jax.numpy as jnp
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from jaxgpt.data import CharTokenizer
from jaxgpt.errors import UserError
from jaxgpt.training.appended_file import AppendedFile
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.display import Display, busy
from jaxgpt.training.metrics import BadNumbers, Reporter, utilisation_per_token
from jaxgpt.training.metrics_file import read_metrics
from jaxgpt.training.metrics_log import MetricsLog
from jaxgpt.training.run import Run
from jaxgpt.training.step import Metrics
from jaxgpt.training.trackers import check_installed

CONFIG = TrainConfig.preset("tiny")
LINE = {"step": 3, "loss": 1.5, "grad_norm": 0.5, "learning_rate": 1e-3, "tokens_per_second": 1e6}
TOKENS = CONFIG.batch_size * CONFIG.model.context_length


def events(folder):
    """The events of a folder's TensorBoard files, by another implementation's reader and checksums."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            data = content[12 : 12 + length]
            for part, crc in ((content[:8], content[8:12]), (data, content[12 + length : 16 + length])):
                assert struct.pack("<I", masked_crc32c(part)) == crc
            found.append(Event.FromString(data))
            content = content[16 + length :]
    return found


def scalars(folder):
    """(step, name) to value."""
    return {(event.step, value.tag): value.simple_value for event in events(folder) for value in event.summary.value}


def written(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def reporter(tmp_path):
    run = Run(tmp_path, CONFIG, CharTokenizer("a"), "")
    with (tmp_path / "output.txt").open("w") as file, Reporter(run, 0, Console(file=file, width=40)) as reporter:
        yield reporter


BAD = next(name for name in Metrics._fields if name in ("bad", "nonfinite_or_spike"))


def metrics(loss: float = 2.0, **aux: float) -> Metrics:
    told = {"loss": loss, "grad_norm": 0.5, "learning_rate": 0.25, "skipped": 0, "data_offset": 0}
    whole = {name: jnp.float32(value) for name, value in told.items()} | {BAD: jnp.bool(not math.isfinite(loss))}
    if "aux" in Metrics._fields:
        whole["aux"] = {name: jnp.float32(value) for name, value in aux.items()}
    return Metrics(**whole)


@pytest.fixture
def clock(monkeypatch, reporter):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    reporter._clock = reporter._began = now[0]
    return now


def test_a_line_goes_to_the_file_and_to_tensorboard_at_once(tmp_path):
    with MetricsLog(tmp_path, CONFIG, start=0) as log:
        log.write(LINE)
        assert written(tmp_path) == [LINE]
        assert scalars(tmp_path) == {(3, name): pytest.approx(LINE[name]) for name in LINE if name != "step"}


def test_tensorboard_is_told_which_steps_are_undone(tmp_path):
    with MetricsLog(tmp_path, CONFIG, start=7) as log:
        log.write(LINE)
    version, begin, _ = events(tmp_path)
    assert version.file_version == "brain.Event:2"
    assert (begin.step, begin.session_log.status) == (8, begin.session_log.START)


def test_a_line_has_the_fields_of_the_contract(reporter, tmp_path):
    reporter.report_start(4.0)
    reporter.report(1, metrics())
    reporter.report(2, metrics(), 3.0)
    fields = {"step", "loss", "learning_rate", "grad_norm", "skipped", "data_offset"}
    fields |= {"tokens_per_second", "tokens", "seconds"}
    start, *lines = written(tmp_path)
    assert start == {"step": 0, "val_loss": 4.0, "tokens": 0, "seconds": 0.0}
    assert [line.keys() for line in lines] == [fields, fields | {"val_loss"}]
    assert [line["tokens"] for line in lines] == [TOKENS, 2 * TOKENS]
    assert all(line["tokens_per_second"] > 0 for line in lines)


@pytest.mark.skipif("aux" not in Metrics._fields, reason="the step has no metrics of a loss's own")
def test_a_losss_own_numbers_are_in_the_line(reporter, tmp_path):
    reporter.report(1, metrics(accuracy=0.5))
    assert written(tmp_path)[0]["accuracy"] == 0.5


def test_steps_that_are_undone_by_resuming_leave_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1, 6)) + '{"step": 2, "lo')
    with MetricsLog(tmp_path, CONFIG, start=3) as log:
        log.write({"step": 4, "loss": 1.0})
    assert [line["step"] for line in written(tmp_path)] == [1, 2, 3, 4]


def test_a_damaged_line_costs_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n5\n{"step": 2}\n{"step": 9}\n')
    MetricsLog(tmp_path, CONFIG, start=3)
    assert [line["step"] for line in written(tmp_path)] == [1, 2]


def test_seconds_go_on_where_an_earlier_process_left(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 40.0}\n{"step": 2, "seconds": 90.0}\n')
    run = Run(tmp_path, CONFIG, CharTokenizer("a"), "")
    with Reporter(run, 1, Console(quiet=True)) as reporter:
        assert 40.0 <= reporter.report(2, metrics())["seconds"] < 80.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "val_loss"])
def test_a_number_that_is_not_finite_is_an_error_that_names_the_step(reporter, tmp_path, name, value):
    told, val_loss = metrics(), 3.0
    if name == "val_loss":
        val_loss = value
    else:
        told = told._replace(**{name: jnp.float32(value), BAD: jnp.bool(True)})
    with pytest.raises(BadNumbers, match=f"{name} is {value} (at|after) step 3: training stopped") as bad:
        reporter.report(3, told, val_loss)
    assert bad.value.step == 3
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_jump_of_the_loss_is_told_as_one(reporter):
    with pytest.raises(BadNumbers, match="loss jumped to 9.000 at step 3"):
        reporter.report(3, metrics(9.0)._replace(**{BAD: jnp.bool(True)}))


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
    assert not (tmp_path / "metrics.jsonl").exists()


def test_piped_lines_are_plain_whole_and_say_how_long_it_takes(reporter, tmp_path, clock):
    clock[0] += 10.0
    reporter.report(1, metrics(), 3.0)
    reporter._display._console.file.flush()
    (line,) = (tmp_path / "output.txt").read_text().splitlines()
    left = f"{10 * (CONFIG.steps - 1) // 60} min 30 s left"
    told = f"{TOKENS / 10:,.0f} tokens/s  {TOKENS} tokens in 10 s, {left}"
    assert line == f"step      1  loss 2.000  {told}  validation loss 3.000"


def test_a_terminal_says_what_a_start_does():
    console = Console(force_terminal=True, width=60, record=True)
    with console.capture() as shown, busy(console, "compiling"):
        pass
    assert "compiling 0 s" in shown.get()


def test_a_terminal_of_80_columns_shows_the_whole_bar():
    console = Console(force_terminal=True, width=80, no_color=True)
    line = {"step": 295, "loss": 5.741, "tokens_per_second": 3700.0, "tokens": 302_080, "seconds": 80.0}
    with console.capture() as shown, Display(console, 0, 300) as display:
        display.show(line, seconds_left=55.2)
    bar = r"step 295/300 \S+ loss 5.741  3,700 tokens/s  302k tokens 0 s, 55 s left"
    assert any(re.fullmatch(bar, line) and len(line) <= 80 for line in re.split(r"[\r\n]|\x1b\[\??\d*\w", shown.get()))


def test_lines_say_both_utilisations(tmp_path):
    line = {"step": 1, "loss": 2.0, "tokens_per_second": 9.0, "tokens": 9, "seconds": 1.0}
    with (tmp_path / "out").open("w") as file, Display(Console(file=file), 0, 2) as display:
        display.show(line | {"mfu": 0.46, "mfu_causal": 0.421}, seconds_left=0)
    assert "9 tokens/s  MFU 46.0 % (42.1 causal)" in (tmp_path / "out").read_text()


def test_time_that_does_not_count_is_left_out_of_the_speed(reporter, tmp_path, clock):
    clock[0] += 2.0
    with reporter.clock_stopped():
        clock[0] += 50.0
    reporter.report(1, metrics())
    assert written(tmp_path)[0]["tokens_per_second"] == TOKENS / 2
    assert written(tmp_path)[0]["seconds"] == 52.0


@pytest.mark.parametrize("at_once", [True, False], ids=["done when begun", "done when fetched"])
def test_every_step_has_its_own_time_around_a_validation(reporter, tmp_path, clock, at_once):
    """Steps of 2 seconds; numbers are reported when the next step has begun, or at a validation."""
    late = None
    for step in range(1, 7):
        if at_once:
            clock[0] += 2.0
            reporter.stepped(step, metrics())
        elif late:
            clock[0] += 2.0  # the step before is done while this one waits
        if late:
            reporter.report(*late)
        late = (step, metrics())
        if step % 3 == 0:
            clock[0] += 0.0 if at_once else 2.0
            with reporter.clock_stopped():
                clock[0] += 30.0
            reporter.report(*late, 3.0)
            late = None
    assert [line["tokens_per_second"] for line in written(tmp_path)] == [TOKENS / 2] * 6


def test_utilisation_is_told_by_both_formulas_where_the_peak_is_known(monkeypatch):
    config = TrainConfig.preset("gpt2")
    assert utilisation_per_token(config, 1) == {}  # a CPU
    monkeypatch.setattr("jax.devices", lambda: [types.SimpleNamespace(device_kind="NVIDIA H200")])
    found = {name: 530e3 * each for name, each in utilisation_per_token(config, 1).items()}
    assert found["mfu"] == pytest.approx(0.46, abs=0.005)  # 530k tokens/s at 124M are 46 %
    assert found["mfu_causal"] < found["mfu"]
    assert utilisation_per_token(config, 8)["mfu"] == pytest.approx(found["mfu"] / 530e3 / 8)


class FullDisk:
    """os.write, as on a disk that has so many bytes left."""

    def __init__(self, free: int) -> None:
        self.free, self._write = free, os.write

    def write(self, file: int, data: bytes) -> int:
        if self.free == 0:
            raise OSError(28, "No space left on device")
        done = self._write(file, data[: self.free])
        self.free -= done
        return done


def test_a_full_disk_is_told_once_for_each_file_and_its_lines_come_when_there_is_room(tmp_path, monkeypatch):
    told, disk = [], FullDisk(10)
    with MetricsLog(tmp_path, CONFIG, 0, told.append) as log:
        monkeypatch.setattr(os, "write", disk.write)
        for step in range(100):
            log.write({"step": step, "loss": 1.0})
        disk.free = 2**20
        log.write({"step": 100, "loss": 1.0})
    assert told == [
        "jaxgpt: metrics.jsonl cannot be written ([Errno 28] No space left on device); training goes on",
        "jaxgpt: the TensorBoard file cannot be written ([Errno 28] No space left on device); training goes on",
    ]
    assert [line["step"] for line in written(tmp_path)] == list(range(101))
    assert sorted(step for step, _ in scalars(tmp_path)) == list(range(101))


def test_a_pipe_in_place_of_the_metrics_is_told_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    told = []
    with MetricsLog(tmp_path, CONFIG, 0, told.append) as log:
        log.write({"step": 1, "loss": 1.0})
    assert [message.partition(" cannot be written")[0] for message in told] == ["jaxgpt: metrics.jsonl"]
    assert read_metrics(tmp_path) == []


def test_no_part_of_a_record_is_left_on_a_full_disk(tmp_path, monkeypatch):
    file = AppendedFile(tmp_path / "file")
    file.append(b"first ")
    monkeypatch.setattr(os, "write", FullDisk(3).write)
    with pytest.raises(OSError, match="No space"):
        file.append(b"second")
    assert (tmp_path / "file").read_bytes() == b"first "


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_every_line_and_every_column(tmp_path):
    lines = [{"step": 0, "val_loss": 4.0}, {"step": 1, "loss": 3.5}, {"step": 2, "loss": math.nan, "val_loss": 3.0}]
    for start, part in ((0, lines[:2]), (1, lines[2:])):  # the second, of a resumed run
        with MetricsLog(tmp_path, dataclasses.replace(CONFIG, trackers="csv"), start) as log:
            for line in part:
                log.write(line)
    assert table(tmp_path) == [
        {"step": "0", "val_loss": "4.0", "loss": ""},
        {"step": "1", "val_loss": "", "loss": "3.5"},
        {"step": "2", "val_loss": "3.0", "loss": ""},
    ]
    assert not list(tmp_path.glob("events*"))


def test_a_table_that_could_not_be_written_is_whole_when_it_can(tmp_path):
    told, folder = [], tmp_path / "metrics.csv"
    folder.mkdir()  # nothing can be written in its place
    with MetricsLog(tmp_path, dataclasses.replace(CONFIG, trackers="csv"), 0, told.append) as log:
        for step in range(3):
            log.write({"step": step, "loss": 1.0})
        folder.rmdir()
        log.write({"step": 3, "loss": 1.0})
    assert [row["step"] for row in table(tmp_path)] == ["0", "1", "2", "3"]
    assert len(told) == 1
    assert "metrics.csv cannot be written" in told[0]


def test_trackers_are_known_and_installed(monkeypatch):
    with pytest.raises(UserError, match="there is no 'wandbb'; did you mean 'wandb'?"):
        dataclasses.replace(CONFIG, trackers="csv,wandbb")
    assert dataclasses.replace(CONFIG, trackers="none").tracker_names == ()
    monkeypatch.setattr("jaxgpt.training.trackers.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'jaxgpt\[wandb\]'"):
        check_installed(dataclasses.replace(CONFIG, trackers="wandb"))


def test_a_run_that_sent_its_numbers_to_wandb_still_does():
    fields = CONFIG.to_dict()
    del fields["trackers"]
    assert TrainConfig.from_dict(fields | {"wandb": True}).tracker_names == ("tensorboard", "wandb")
    assert TrainConfig.from_dict(fields | {"wandb": False}) == CONFIG


class Wandb(types.ModuleType):
    """The package, with a service that answers as it is told."""

    class Error(Exception):
        pass

    def __init__(self, log, init=lambda: None):
        super().__init__("wandb")
        self._log, self._init, self.lines, self.finished = log, init, [], False

    def init(self, **given):
        self._init()
        self.given = given
        return self

    def log(self, numbers, step):
        self._log()
        self.lines.append((step, numbers))

    def finish(self):
        self.finished = True


def with_wandb(monkeypatch, folder, *arguments, lines=3):
    """The stub after some lines, and what was told."""
    stub, told = Wandb(*arguments), []
    monkeypatch.setitem(sys.modules, "wandb", stub)
    with MetricsLog(folder, dataclasses.replace(CONFIG, trackers="tensorboard,wandb"), 0, told.append) as log:
        for step in range(lines):
            log.write({"step": step, "loss": 1.0})
    return stub, told


def fail():
    raise Wandb.Error("the network is gone")


def test_wandb_gets_every_line(monkeypatch, tmp_path):
    stub, told = with_wandb(monkeypatch, tmp_path, lambda: None)
    assert stub.lines == [(step, {"loss": 1.0}) for step in range(3)]
    assert stub.finished
    assert told == []
    assert (stub.given["project"], stub.given["dir"]) == ("jaxgpt", str(tmp_path))


def test_the_environment_names_the_project_of_wandb(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    stub, _ = with_wandb(monkeypatch, tmp_path, lambda: None)
    assert stub.given["project"] == "mine"


@pytest.mark.parametrize("arguments", [(fail,), (lambda: None, fail)], ids=["log", "init"])
def test_a_wandb_that_fails_is_told_once(monkeypatch, tmp_path, arguments):
    _, told = with_wandb(monkeypatch, tmp_path, *arguments)
    assert told == ["jaxgpt: wandb cannot be written (the network is gone); training goes on"]
    assert len(written(tmp_path)) == 3


def test_a_wandb_that_hangs_holds_up_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("jaxgpt.training.trackers.FINISH_SECONDS", 0.1)
    forever = threading.Event()
    _, told = with_wandb(monkeypatch, tmp_path, forever.wait, lines=20)
    forever.set()
    assert told == ["jaxgpt: wandb cannot be written (not all was sent within 0.1 seconds); training goes on"]
    assert len(written(tmp_path)) == 20
