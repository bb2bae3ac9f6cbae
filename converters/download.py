"""A download has no end of its own where the other side sends a byte now and then: the hub's client (huggingface_hub
1.x, HF_HUB_DOWNLOAD_TIMEOUT) limits the time between two bytes alone.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jaxgpt.errors import UserError

WINDOW_SECONDS = 60.0
MIN_BYTES_PER_SECOND = 1000
T = TypeVar("T")


def download(name: str, action: Callable[[], T], folders: Sequence[Path]) -> T:
    """What an action returns that downloads into these folders.

    Raises UserError where they grow by less than MIN_BYTES_PER_SECOND over WINDOW_SECONDS, and what the action raises.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name=f"download of {name}")
    thread.start()
    size, since = _bytes(folders), time.monotonic()
    while thread.is_alive():
        thread.join(min(0.5, WINDOW_SECONDS / 10))
        if time.monotonic() - since > WINDOW_SECONDS:
            now = _bytes(folders)
            if now - size < MIN_BYTES_PER_SECOND * WINDOW_SECONDS and thread.is_alive():
                raise UserError(
                    f"the hub sent {max(now - size, 0)} bytes of {name} in {WINDOW_SECONDS:.0f} s; try again later, or "
                    "give the path of a copy"
                )
            size, since = now, time.monotonic()
    if errors:
        raise errors[0]
    return results[0]


def _bytes(folders: Sequence[Path]) -> int:
    """All files in the folders, those that are being written included."""
    return sum(_size(path) for folder in folders for path in folder.rglob("*"))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # renamed meanwhile
        return 0
