"""Being asked to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax


@contextmanager
def stop_signals() -> Iterator[list[signal.Signals]]:
    """Within, SIGINT and SIGTERM are noted in the list, for the loop to see; the same one again acts as usual.

    Of several processes none notes anything: SIGTERM is for `cluster.all_stop_after`, and SIGINT ends them.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield received  # besides, only the main thread may set handlers
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
