import os
import shlex
import signal
import subprocess
import sys

import pytest

from tests.runs import ROOT

PROGRAM = """
import sys, time
from rich.console import Console
from jaxgpt.runtime.output import lasting_output
with lasting_output():
    console = Console()
    for i in range(2000):
        console.print("line", i)
        print("more")
        if i == 10:
            sys.stdout.flush()
            time.sleep(0.2)
sys.stderr.write("worked to its end\\n")
"""


def program(stdout) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def test_a_reader_that_leaves_does_not_end_the_work():
    with program(subprocess.PIPE) as process:
        assert process.stdout.readline() == "line 0\n"
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 0, err
    told, last = err.splitlines()
    assert told == "jaxgpt: standard output cannot be written ([Errno 32] Broken pipe); the work goes on without it"
    assert last == "worked to its end"


def test_output_to_a_full_disk_does_not_end_the_work():
    full = os.open("/dev/full", os.O_WRONLY)
    process = program(full)
    os.close(full)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert len(err.splitlines()) == 2
    assert "No space left on device" in err


def test_a_command_whose_reader_has_left_ends_without_a_word():
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-m", "jaxgpt", "--help"], stdout=writing, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_command_whose_output_finds_no_room_says_so():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxgpt", "--version"]
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    told = "jaxgpt: standard output cannot be written (No space left on device): send it elsewhere\n"
    assert (ended.returncode, ended.stderr) == (2, told)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_stream_that_was_closed(closed, tmp_path):
    program = f"""
import os, sys
from jaxgpt.runtime.output import open_closed_streams
open_closed_streams()
print("said"); sys.stderr.write("said"); sys.stdin.read()
with open({str(tmp_path / "file")!r}, "w") as file:
    file.write(str(file.fileno()))
"""
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} {closed}"
    subprocess.run(command, shell=True, check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert int((tmp_path / "file").read_text()) > 2
