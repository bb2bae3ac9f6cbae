import os
import subprocess
import sys

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
