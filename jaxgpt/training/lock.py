"""The lock of a run folder: one process at a time trains in it, and a second is refused by name."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxgpt.errors import UserError

NAME = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Within, no other process may train in this folder. Raises UserError that names the holder.

    The system's lock on a file: it ends with its process, however that ends, so what a killed one left is taken over.
    The file says who holds it. Where the disk has no locks, such as on some network disks, there is none.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / NAME
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(path)
            os.close(file)
            raise UserError(
                f"{folder} is in use by {holder}: wait until it ends, stop it, or train in another folder"
            ) from None
        except OSError:
            os.close(file)
            yield
            return
        if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
            break
        os.close(file)  # its holder ended between the two calls, and took the file away
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another process"
