import os
import platform
import subprocess
import sys

import pytest

from jaxgpt.runtime import host_memory
from tests.runs import jaxgpt, write_text

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone can be told")

SIZE = 2**26
PROGRAM = """
import ctypes, resource
from jaxgpt.runtime.host_memory import keep_freed_memory, return_freed_memory, lower_mmap_threshold
{told}
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes, library.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = library.malloc({size})
    library.memset(memory, 1, {size})
    library.free(memory)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(3):
    again = faults()
print(again)
"""
PAGES = SIZE // os.sysconf("SC_PAGE_SIZE")


def faults_of_memory_used_again(told: str, size: int = SIZE, **environment: str) -> int:
    """Page faults of a piece of memory, after one as large was freed."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", PROGRAM.format(told=told, size=size)]
    return int(subprocess.run(command, env=quiet | environment, capture_output=True, text=True, check=True).stdout)


def test_kept_memory_has_its_pages_when_it_is_used_again():
    assert faults_of_memory_used_again("keep_freed_memory()") < PAGES / 100


@pytest.mark.parametrize("told", ["", "return_freed_memory()", "keep_freed_memory(); return_freed_memory()"])
def test_memory_that_was_returned_is_given_out_page_by_page(told):
    assert faults_of_memory_used_again(told) >= PAGES


def test_small_pieces_are_returned_where_a_program_asks_for_it():
    size = 2**20
    assert faults_of_memory_used_again("", size) < size / SIZE * PAGES / 10
    assert faults_of_memory_used_again("lower_mmap_threshold()", size) >= size / SIZE * PAGES


def test_a_librarys_user_keeps_the_malloc_that_he_set():
    """Such as by mallopt or a preloaded library; a run that needs much memory returns only what a command kept."""
    set_by_hand = "ctypes.CDLL(None).mallopt(-4, 0); ctypes.CDLL(None).mallopt(-1, -1); return_freed_memory()"
    assert faults_of_memory_used_again(set_by_hand) < PAGES / 100


def test_the_environment_has_the_last_word():
    assert faults_of_memory_used_again("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="1000000") >= PAGES


@pytest.mark.parametrize(("largest", "returned"), [(0, 1), (2**29, 0)])
def test_a_run_whose_step_needs_more_than_the_bound_returns_memory(largest, returned, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr("jaxgpt.training.start.LARGEST_KEPT", largest)
    monkeypatch.setattr("jaxgpt.training.start.return_freed_memory", lambda: calls.append("returned"))
    text, run = write_text(tmp_path / "text.txt"), tmp_path / "run"
    outcome = jaxgpt("train", "tiny", "--steps", 1, "--sample-tokens", 0, "--data.source", text, "--run", run)
    assert outcome.code == 0, outcome
    assert len(calls) == returned


def test_the_memory_of_a_container_or_a_shell_is_the_limit(monkeypatch, tmp_path):
    machine = host_memory.host_memory_limit()
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(host_memory, "CGROUP_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "absent")))
    assert host_memory.host_memory_limit() >= machine
    (tmp_path / "memory.max").write_text(f"{2**28}\n")
    assert host_memory.host_memory_limit() == 2**28
    monkeypatch.setattr("resource.getrlimit", lambda _: (2**27, 2**27))
    assert host_memory.host_memory_limit() == 2**27
