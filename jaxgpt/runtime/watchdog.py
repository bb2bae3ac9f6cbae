"""One of several processes that fails or is lost must not leave the others waiting: they stop, and say why.

Each process counts in the store that all share, and looks whether the others count on. JAX would end the others too,
but later and with a stack trace, and a collective waits for ever.
"""

import atexit
import contextlib
import ctypes
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn

from jaxgpt.errors import UserError
from jaxgpt.runtime.store import Store, StoreError, shared_store

BEAT_SECONDS = 1.0
SILENT_SECONDS = 20.0
"""After this long without a beat a process is taken for lost."""
SUSPECT_SECONDS = 8.0
"""The same, where an operation of all processes has failed in this one."""
GRACE_SECONDS = 3.0
"""After another process fails: time to fail by oneself with the same message, as all do that refuse together."""
END_SECONDS = 300.0
"""How long a process that is done waits for the others."""
LOST = 3
"""The exit code of one of several processes that cannot go on because of another."""
ALIVE = "alive"
DONE, LEFT = "done", "left "


class Watchdog:
    """Three threads: one counts and listens, one judges, one tells: a store that does not answer holds up one alone."""

    def __init__(self, store: Store) -> None:
        self.cure = "start all processes again"
        self.on_beat: list[Callable[[], bool]] = []
        """Called after each beat; one that returns True asks for the next one soon."""
        self.process = store.process
        self._store, self._limit = store, SILENT_SECONDS
        now = time.monotonic()
        self._answered, self._ticked = now, now
        self._heard = {str(process): ("", now) for process in range(store.count) if process != store.process}
        self._ended, self._leaving, self.wake = threading.Event(), threading.Lock(), threading.Event()
        self._last_words = ""
        self._messages: queue.SimpleQueue[tuple[str, threading.Event]] = queue.SimpleQueue()

    def start(self) -> None:
        for work in (self._beat, self._judge, self._send):
            threading.Thread(target=work, daemon=True, name=f"jaxgpt watchdog {work.__name__}").start()

    def _beat(self) -> None:
        beat, soon = 0, False
        while not self._ended.is_set():
            self.wake.wait(0.05 if soon else BEAT_SECONDS)
            self.wake.clear()
            beat += 1
            try:
                self._store.put(f"{ALIVE}/{self._store.process}", self._last_words or str(beat))
                self._listen()
                soon = [look() for look in self.on_beat].count(True) > 0  # every one looks
            except StoreError:
                if not self._ended.is_set():
                    self.store_lost()

    def _listen(self) -> None:
        said, now = self._store.entries(ALIVE), time.monotonic()
        self._answered = now
        for process, (before, _) in list(self._heard.items()):
            if (text := said.get(process, "")) != before:
                self._heard[process] = (text, now)

    def _judge(self) -> None:
        while not self._ended.wait(0.5):
            now = time.monotonic()
            if (paused := now - self._ticked) > 3:  # this process itself stood still: the others may have counted on
                self._answered += paused
                self._heard = {process: (text, since + paused) for process, (text, since) in self._heard.items()}
            self._ticked = now
            if now - self._answered > self._limit:
                self.leave(f"process 0 has not answered for {self._limit:.0f} seconds")
            for process, (text, since) in list(self._heard.items()):
                if text.startswith(LEFT) and now - since > GRACE_SECONDS:
                    self.leave(text.removeprefix(LEFT))
                if not text.startswith((LEFT, DONE)) and now - since > self._limit:
                    self.leave(f"process {process} has been silent for {self._limit:.0f} seconds: killed or stopped")

    def confirm(self, reason: str) -> None:
        """Return where a failure is this process's own; leave where it is because another process failed or is lost.

        That shows first as an operation that fails here: each other process must count on, or end for the same reason.
        A count that is heard first now may have been made before the failure, by a process that is lost.
        """
        self._limit = SUSPECT_SECONDS
        asked = time.monotonic()
        while self._answered <= asked:
            time.sleep(0.05)
        asked = self._answered
        while not all(since > asked or text.startswith((DONE, LEFT)) for text, since in list(self._heard.values())):
            time.sleep(0.05)
        self._limit = SILENT_SECONDS
        if (other := self._why_another_left()) and reason not in other:
            self.leave(other)

    def store_lost(self) -> NoReturn:
        self.leave(self._why_another_left() or "process 0 has ended or cannot be reached")

    def _why_another_left(self) -> str | None:
        said = [text.removeprefix(LEFT) for text, _ in self._heard.values() if text.startswith(LEFT)]
        return said[0] if said else None

    def leave(self, reason: str, code: int = LOST, *, quiet: bool = False) -> NoReturn:
        """End this process at once with a message, and tell the others.

        Not by an exception: on its way out it would meet barriers that the lost process never reaches.
        """
        if not self._leaving.acquire(blocking=False):
            threading.Event().wait()  # another thread is ending the process
        if not quiet:
            say(f"jaxgpt: process {self._store.process} stops: {reason}; {self.cure}")
        self._last_words = LEFT + reason
        self._tell(self._last_words)
        if self._store.process == 0:
            self._wait_until_others_know()
        _flush_and_exit(code)

    def _send(self) -> None:
        while True:
            text, sent = self._messages.get()
            with contextlib.suppress(StoreError):
                self._store.put(f"{ALIVE}/{self._store.process}", text)
            sent.set()

    def _tell(self, text: str) -> None:
        """Tell the others by a thread that runs already: at exit Python starts no new one."""
        sent = threading.Event()
        self._messages.put((text, sent))
        sent.wait(2)  # process 0 may not answer

    def _wait_until_others_know(self) -> None:
        """Process 0 keeps the store: the others would not learn the reason if it ended first."""
        deadline = time.monotonic() + GRACE_SECONDS + 4
        while time.monotonic() < deadline:
            said = self._store.entries(ALIVE)
            lost = time.monotonic() - self._limit
            if all(
                since < lost or said.get(name, "").startswith((LEFT, DONE)) for name, (_, since) in self._heard.items()
            ):
                return
            time.sleep(0.1)

    def finish(self) -> None:
        """At the end of a process that did its work: wait until the others did theirs."""
        deadline = time.monotonic() + END_SECONDS
        self._last_words = DONE
        self.wake.set()
        while waiting := [process for process, (text, _) in self._heard.items() if text != DONE]:
            if time.monotonic() > deadline:
                self.leave(f"process {', '.join(waiting)} has not ended {END_SECONDS:.0f} seconds after this one")
            time.sleep(0.05)
            self.wake.set()
        self._tell(DONE)  # so that none is left waiting for this process's last beat
        self._ended.set()


_watchdog: Watchdog | None = None


def start() -> Watchdog | None:
    """Watch over the other processes from here on; the same watchdog each time. None where there are no others."""
    global _watchdog
    store = shared_store()
    if _watchdog is None and store is not None:
        _watchdog = Watchdog(store)
        _watchdog.start()
        _leave_on_terminate()
        atexit.register(_watchdog.finish)
        sys.excepthook = _show_and_leave
    return _watchdog


def set_cure(cure: str) -> None:
    """What a person can do where another process is lost; the end of the message."""
    if _watchdog is not None:
        _watchdog.cure = cure


def before_failing(error: BaseException) -> None:
    """Before an error is shown: return where it is this process's own; else end it with exit code 3 and the reason."""
    if _watchdog is not None and not (isinstance(error, UserError) and error.__cause__ is None):
        _watchdog.confirm(_first_line(error))


def end(code: int, error: BaseException) -> None:
    """After an error that has been shown: tell the others and end this process. Does nothing for one process."""
    if _watchdog is not None:
        _watchdog.leave(f"process {_watchdog.process} failed: {_first_line(error)}", code, quiet=True)


def exit_without_teardown(code: int) -> None:
    """End a process of several after all its work, without C++ destructors. Does nothing where there is one process.

    Destructors sometimes crash after everything is saved: 2 of about 27 runs of two CPU processes were reported as
    failed (SIGSEGV).
    """
    if _watchdog is not None:
        _flush_and_exit(code)


def _flush_and_exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def store_lost(*_: object) -> None:
    """JAX's store is gone, and with it process 0."""
    if _watchdog is None:
        give_up("process 0 has ended or cannot be reached")
    _watchdog.store_lost()


def give_up(reason: str) -> NoReturn:
    """End this process, which is not connected to the others, because of them."""
    say(f"jaxgpt: {reason}")
    os._exit(LOST)


def say(message: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)  # noqa: T201


def _show_and_leave(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A defect keeps its traceback, in the process that failed."""
    before_failing(error)
    sys.__excepthook__(kind, error, trace)
    end(1, error)


@ctypes.CFUNCTYPE(None)
def _terminated() -> None:
    store_lost()


def _leave_on_terminate() -> None:
    """JAX calls `store_lost` from C++ with a status that Python cannot be given (jaxlib 0.10.2 to 0.12.0 throw
    std::bad_cast there), so C++ ends the process: let it end with our message instead of a stack trace.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc++abi.dylib" if sys.platform == "darwin" else "libstdc++.so.6")
        library._ZSt13set_terminatePFvvE(_terminated)  # std::set_terminate
