import os
import signal
import subprocess
import sys

import pytest

from converters.atomic_dir import atomic_dir
from jaxgpt.errors import UserError

WRITE_AND_HANG = """
import sys, time
from pathlib import Path
from converters.atomic_dir import atomic_dir
with atomic_dir(Path(sys.argv[1])) as draft:
    (draft / "half").write_text("written")
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is writing the folder `out`."""
    process = subprocess.Popen([sys.executable, "-c", WRITE_AND_HANG, tmp_path / "out"], stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_process_left_is_removed_by_the_next(writer, tmp_path):
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_dir(tmp_path / "out") as draft:
        (draft / "file").write_text("whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_what_a_living_process_is_writing_stays(writer, tmp_path):
    with atomic_dir(tmp_path / "out"):
        pass
    drafts = [path for path in tmp_path.iterdir() if path.name != "out"]
    assert [path.name for path in drafts[0].iterdir()] == ["half"]


def test_two_processes_of_one_id_do_not_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in two containers that share a disk
    with (
        atomic_dir(tmp_path / "one") as one,
        atomic_dir(tmp_path / "two") as two,
        atomic_dir(tmp_path / "one[x]") as odd,
    ):
        assert len({one, two, odd}) == 3


def test_a_failure_leaves_nothing(tmp_path):
    def write(folder):
        with atomic_dir(folder) as draft:
            (draft / "half").write_text("written")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_may_be_there_and_a_full_one_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    with atomic_dir(tmp_path / "empty") as draft:
        (draft / "file").write_text("whole")
    with pytest.raises(UserError, match="exists and is not an empty folder"), atomic_dir(tmp_path / "empty"):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="out cannot be made"), atomic_dir(tmp_path / "file" / "below" / "out"):
        pass


@pytest.mark.parametrize("target", ["nowhere", "out", "file"])
def test_a_link_to_what_is_no_folder_is_refused(tmp_path, target):
    (tmp_path / "file").touch()
    (tmp_path / "out").symlink_to(target)
    with pytest.raises(UserError, match="out exists and is not an empty folder"), atomic_dir(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"file", "out"}


def test_a_link_to_an_empty_folder_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with atomic_dir(tmp_path / "out") as draft:
        (draft / "file").write_text("whole")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "whole"


def test_a_name_too_long_for_a_draft_is_refused(tmp_path):
    for length in (230, 300):
        with (
            pytest.raises(UserError, match="cannot be made .File name too long"),
            atomic_dir(tmp_path / ("x" * length)),
        ):
            pass
    assert not any(tmp_path.iterdir())
