"""Being asked to stop: after SIGINT, SIGTERM or SIGHUP all processes of a run make the same last step, and save."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Literal

from jaxgpt.runtime import watchdog
from jaxgpt.runtime.store import Store, shared_store
from jaxgpt.runtime.watchdog import say

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE_SECONDS = 5
"""How long a process outside its steps may clean up after a signal."""
Phase = Literal["start", "loop", "end"]
KEPT = "tokens and programs that were ready are kept in the cache"
REQUEST, LAST = "stop/request", "stop/last"


class StopRequested(KeyboardInterrupt):
    """A signal arrived outside the steps of training."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Stops:
    """Which signal asked to stop, and after which step all processes do.

    Several processes agree in the watchdog's thread: each says which step it has reached, and goes no further until all
    have; all stop after the step that follows the latest.
    """

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self.phase: Phase = "start"
        self.resume: str | None = None
        """The command that goes on with the run, once there is something to go on with."""
        self._usual = {number: signal.getsignal(number) for number in STOPPING}
        self._usual_hook = sys.unraisablehook
        self._gate, self._step = threading.Lock(), 0
        self._said, self._decided = False, False
        self._stop_after: int | None = None
        self._agreed: signal.Signals | None = None
        self._dog = watchdog.start()
        self._store: Store | None = None
        self.join()

    def join(self) -> None:
        """Agree with the other processes from here on, where there are any."""
        self._store, self._dog = shared_store(), watchdog.start()
        if self._dog is not None and self._agree not in self._dog.on_beat:
            self._dog.on_beat.append(self._agree)

    def install(self) -> None:
        """Note signals. One that the process ignores, such as SIGHUP under nohup, stays ignored."""
        sys.unraisablehook = _without_stop_requests(self._usual_hook)
        for number, usual in self._usual.items():
            if usual is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def restore(self) -> None:
        sys.unraisablehook = self._usual_hook
        for number, usual in self._usual.items():
            signal.signal(number, usual)

    def _note(self, number: int, _: FrameType | None) -> None:
        """The same signal again acts as usual."""
        found = signal.Signals(number)
        self.received.append(found)
        signal.signal(number, self._usual[found])
        if self._dog is not None:
            self._dog.wake.set()
        elif not self.in_loop():
            raise StopRequested(self.message(found), self.exit_code(found, self.resume is not None))

    def after(self, step: int) -> signal.Signals | None:
        """The signal because of which the run stops after this step, the same in all processes. Ask after each step."""
        if self._store is None:
            return self.received[0] if self.received else None
        with self._gate:  # closed while the processes agree
            self._step = step
        return self._agreed if self._stop_after is not None and step >= self._stop_after else None

    def _agree(self) -> bool:
        """One look at what the processes have said; whether to look again soon."""
        store = self._store
        if store is None or self._decided:
            return False
        request = store.entries(REQUEST).get("first")
        if request is None and self.received:
            store.put_first(f"{REQUEST}/first", f"{self.received[0].name} {store.process}")
            return True
        if request is None:
            return False
        if not self._said:
            self._gate.acquire()
            store.put(f"{LAST}/{store.process}", f"{self.phase} {self._step} {self.resume is not None}")
            self._said = True
        said = store.entries(LAST)
        if len(said) < store.count:
            return True
        self._decide(request, [text.split() for text in said.values()])
        return False

    def _decide(self, request: str, said: list[list[str]]) -> None:
        name, process = request.split()
        self._agreed, self._decided = signal.Signals[name], True
        steps = [int(step) for phase, step, _ in said if phase == "loop"]
        if steps:
            self._stop_after = max(steps) + 1
        elif self._dog is not None:
            can_resume = any(resumable == "True" for *_, resumable in said)
            reason = f"{name} reached process {process} {self.where()}"
            self._dog.leave(reason, self.exit_code(self._agreed, can_resume))
        self._gate.release()

    def in_loop(self) -> bool:
        return self.phase == "loop"

    def where(self) -> str:
        return {"start": "before the first step", "loop": "during a step", "end": "after the last step"}[self.phase]

    @staticmethod
    def exit_code(number: signal.Signals, can_resume: bool) -> int:
        """As shells expect after Ctrl-C; 0 where a scheduler asked and the run can go on."""
        return 0 if number != signal.SIGINT and can_resume else 128 + number

    def message(self, number: signal.Signals) -> str:
        stopped = f"stopped by {number.name} {self.where()}"
        if self.resume is None:
            return f"{stopped}; no run was made: {KEPT}, so the same command starts sooner"
        kept = f"; the run is made, and {KEPT}" if self.phase == "start" else ""
        return f"{stopped}{kept}; go on with: {self.resume}"


def _without_stop_requests(usual: Callable[[Any], object]) -> Callable[[Any], object]:
    """A sys.unraisablehook that does not print StopRequested. Python cannot raise it from a destructor; the signal is
    recorded all the same, and the run stops after its first step.
    """

    def hook(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, StopRequested):
            usual(unraisable)

    return hook


_command: Stops | None = None
"""Of the command that this process is, if it trains."""


@contextmanager
def stop_signals() -> Iterator[Stops]:
    """Within, SIGINT, SIGTERM and SIGHUP are noted for `Stops.after`, instead of ending the process."""
    stops = _command or Stops()
    handles = _command is None and threading.current_thread() is threading.main_thread()  # only it may set handlers
    if handles:
        stops.install()
    stops.join()
    stops.phase = "loop"
    try:
        yield stops
    finally:
        stops.phase = "end"
        if handles:
            stops.restore()


@contextmanager
def command_signals() -> Iterator[None]:
    """Within, a command that trains ends well after a signal, before and after its steps too.

    Outside the steps it has some seconds to clean up, then it is ended, whatever it computes or waits for.
    """
    global _command
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    before = signal.set_wakeup_fd(writable, warn_on_full_buffer=False)  # written to even while the main thread computes
    _command = Stops()
    _command.install()
    threading.Thread(target=_end_in_time, args=(_command, readable), daemon=True, name="jaxgpt signals").start()
    try:
        yield
    finally:
        if shared_store() is None:  # several processes agree until they exit
            _command.restore()
            signal.set_wakeup_fd(before)
            os.close(writable)
            _command = None


def join_others() -> None:
    """Agree with the other processes about signals from here on."""
    if _command is not None:
        _command.join()


def set_resume_command(command: str) -> None:
    """What to type to go on, now that there is a run to go on with."""
    if _command is not None:
        _command.resume = command


def tell(stop: KeyboardInterrupt) -> int:
    """Say that the command was interrupted; returns the exit code."""
    say(f"jaxgpt: {stop}" if isinstance(stop, StopRequested) else "jaxgpt: interrupted")
    return stop.code if isinstance(stop, StopRequested) else 128 + signal.SIGINT


def _end_in_time(stops: Stops, readable: int) -> None:
    while number := os.read(readable, 1):
        if number[0] not in STOPPING or stops.in_loop():
            continue
        found = signal.Signals(number[0])
        if (dog := watchdog.start()) is not None:
            stops.received.append(found)
            dog.wake.set()
            continue
        time.sleep(PATIENCE_SECONDS)
        if _command is stops and not stops.in_loop():
            say(f"jaxgpt: {stops.message(found)}")
            os._exit(stops.exit_code(found, stops.resume is not None))
    os.close(readable)
