"""What the C library does with memory that is freed, which on a CPU decides a third of a small step.

XLA allocates a CPU program's temporary memory at each run and frees it after. By default glibc returns pieces above
32 MB to the system, which hands them out again page by page, each cleared: 9,610 page faults in a step of
shakespeare-char-cpu, 50,157 in one of quickstart. Kept, they are 270 and 2,669, and the steps 1.3 times as fast
(experiments/LOG.md).
"""

import contextlib
import ctypes
import os
import platform
import resource
from pathlib import Path

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8

LARGEST_KEPT = 2**29
"""Bytes that a step may need for freed memory to be kept. The heap of one that needs more breaks into pieces: at 1.0 GB
the process had 4.0 GB instead of 1.5, at 3.4 GB 10.8 instead of 4.1.
"""


_kept = False


def keep_freed_memory() -> None:
    """Have this process keep what it frees, in one heap for all threads. Call it before JAX starts its threads.

    It changes malloc for the whole process, so only a program does it, never a library: the commands do.
    Does nothing without glibc, or where the environment sets malloc (MALLOC_...).
    """
    global _kept
    _kept = True
    _set({_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1})


def return_freed_memory() -> None:
    """Have this process return large pieces to the system again, as glibc does by itself after a while.

    Does nothing in a process that was not told to keep them.
    """
    if not _kept:
        return
    _set({_MMAP_MAX: 65536, _MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**26})


def lower_mmap_threshold() -> None:
    """Have malloc use mmap for blocks of 128 kB or more, so that each returns to the system when it is freed.

    By default glibc raises this threshold up to 32 MB and keeps smaller blocks in its heap. The heap fragments where
    their sizes vary: `jaxgpt data prepare` grew by a third of a megabyte for each megabyte of a text. It changes malloc
    for the whole process, so only a program does it, never a library.
    """
    _set({_MMAP_THRESHOLD: 2**17})


def _set(parameters: dict[int, int]) -> None:
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    library = ctypes.CDLL(None)
    for parameter, value in parameters.items():
        library.mallopt(parameter, value)


CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def host_memory_limit() -> int:
    """Bytes that this process may have: the machine's, or less where its container or its shell (ulimit -v) says so.

    >>> host_memory_limit() > 2**20
    True
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:  # of version 2 and 1; without a limit it says max, or more than any machine has
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text(encoding="ascii")))
    address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(limits if address_space == resource.RLIM_INFINITY else [*limits, address_space])
