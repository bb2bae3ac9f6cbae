"""Every kind of fault, at every moment of a run of two processes: who ends how, and within half a minute."""

import itertools
import signal
import time

import pytest

from tests.runs import write_text
from tests.runtime.conftest import TABLE
from tests.runtime.faults import MOMENTS, ends, start_with_fault, wait_for_mark

FAULTS = ("full disk", "SIGINT", "SIGTERM", "SIGKILL", "SIGSTOP", "own error")
CONNECT_SECONDS = 20
FLAGS = [
    *("--model.num-layers", "1", "--batch-size", "16", "--steps", "12", "--eval-every", "6", "--sample-tokens", "4"),
    *("--connect-seconds", str(CONNECT_SECONDS)),
]
KILLED = {-signal.SIGKILL}
BEGUN = {0, 143}
"""After SIGTERM: 0 where a run is there to go on with, else as a shell expects; the same in both."""
EXPECTED = {
    # fault: the exit codes of the process that meets it, and of the other
    "full disk": ({2, 3}, {2, 3}),
    "SIGINT": ({130}, {130}),
    "SIGTERM": ({0}, {0}),
    "SIGKILL": (KILLED, {3}),
    "SIGSTOP": (KILLED, {3}),
    "own error": ({1}, {3}),
}
BUT = {
    ("SIGINT", "before connecting"): ({130}, {3}),
    ("SIGTERM", "before connecting"): ({143}, {3}),
    ("SIGTERM", "preparing data"): (BEGUN, BEGUN),
    ("full disk", "end"): ({0}, {0}),
}
SECONDS = 30
"""From the fault to the end of both; a save that is full comes some steps after the disk is."""
CELLS = list(itertools.product(FAULTS, MOMENTS))
QUICK = [
    ("own error", "preparing data", 1),
    ("SIGINT", "preparing data", 0),
    ("SIGTERM", "compiling", 1),
    ("SIGINT", "step", 1),
    ("SIGKILL", "step", 0),
    ("own error", "save", 0),
]


def meet(fault: str, moment: str, victim: int, tmp_path, record_property, small_disk=None):
    """How two processes end after one has met a fault, checked against the table; the row is kept for the summary."""
    marks, run = tmp_path / "marks", (small_disk or tmp_path) / "run"
    marks.mkdir()
    text = write_text(tmp_path / "text.txt")
    arguments = ["train", "tiny", *FLAGS, "--data.source", text, "--run", run]
    processes = start_with_fault(arguments, moment, victim, fault, marks, small_disk)
    wait_for_mark(marks, victim, processes)
    since = time.monotonic()
    if fault.startswith("SIG"):
        processes[victim].send_signal(signal.Signals[fault])
    found = ends(processes, since, 4 * SECONDS, but=victim if fault == "SIGSTOP" else None)
    mine, other = found[victim], found[1 - victim]
    seconds = max(mine.seconds, other.seconds)
    row = f"{fault:<12} {moment:<18} {f'process {victim}':>9} {mine.code:>9} {other.code:>10} {seconds:>8.1f}"
    record_property(TABLE, row)
    expected = BUT.get((fault, moment), EXPECTED[fault])
    if mine.code not in expected[0] or other.code not in expected[1]:
        pytest.fail("\n".join(f"exit code {one.code} after {one.seconds:.1f} s\n{one.out}{one.err}" for one in found))
    assert seconds < (2 * SECONDS if fault == "full disk" else SECONDS), found
    if fault == "SIGTERM" and moment != "before connecting":
        assert mine.code == other.code, found
    for process in found:
        assert process is mine or "Traceback" not in process.err, process.err
        assert "Check failure stack trace" not in process.err
    if other.code == 3:
        assert any(line.startswith("jaxgpt: process") for line in other.err.splitlines()), other.err
    assert ("Traceback" in mine.err) == (fault == "own error"), mine.err


@pytest.mark.parametrize(("fault", "moment", "victim"), QUICK, ids=lambda value: str(value).replace(" ", "-"))
def test_all_end_with_the_reason_after_a_fault(fault, moment, victim, tmp_path, record_property):
    meet(fault, moment, victim, tmp_path, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize(("fault", "moment"), CELLS, ids=lambda value: value.replace(" ", "-"))
def test_the_table_of_faults_and_moments(fault, moment, victim, tmp_path, record_property, small_disk):
    meet(fault, moment, victim, tmp_path, record_property, small_disk if fault == "full disk" else None)
