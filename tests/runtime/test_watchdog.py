"""Where an operation of all processes fails here, is it because of another?"""

import subprocess
import sys
import threading
import time

import pytest

from jaxgpt.runtime import watchdog
from jaxgpt.runtime.watchdog import ALIVE, Watchdog


class Left(BaseException):
    """In place of the end of the process."""


class Recorded(Watchdog):
    """Says why it would have ended the process."""

    reason = ""

    def leave(self, reason, code=watchdog.LOST, *, quiet=False):
        self.reason = self.reason or reason
        raise Left(reason)


class OtherProcess:
    """The store as process 0 sees it; process 1 counts up to `last`, its last count heard late."""

    process, count = 0, 2

    def __init__(self, last):
        self.last, self.beats = last, 0

    def put(self, name, text):
        pass

    def entries(self, folder):
        self.beats += folder == ALIVE and self.beats < self.last
        return {"0": "1", "1": str(self.beats)}


@pytest.fixture
def confirmed(monkeypatch):
    """Whether a failure is taken for this process's own, beside a process that makes so many counts after it."""
    monkeypatch.setattr(watchdog, "SUSPECT_SECONDS", 0.6)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # Left ends the thread that judges

    def confirm(counts):
        monkeypatch.setattr(watchdog, "BEAT_SECONDS", 0.1)
        watching = Recorded(OtherProcess(counts))
        for work in (watching._beat, watching._judge):
            threading.Thread(target=work, daemon=True).start()
        done = threading.Event()
        threading.Thread(target=lambda: (watching.confirm("Gloo failed"), done.set()), daemon=True).start()
        deadline = time.monotonic() + 10
        while not done.is_set() and not watching.reason and time.monotonic() < deadline:
            time.sleep(0.02)
        watching._ended.set()
        return done.is_set(), watching.reason

    return confirm


def test_a_failure_beside_a_process_that_counts_on_is_ones_own(confirmed):
    assert confirmed(1000) == (True, "")


def test_a_last_count_that_is_heard_late_is_no_sign_of_life(confirmed):
    own, reason = confirmed(1)
    assert not own
    assert "process 1 has been silent" in reason


ENDS = """
import atexit, sys
from jaxgpt import cli
from jaxgpt.runtime import watchdog

class Kept:
    def __del__(self):
        print("destroyed", flush=True)

def main():
    atexit.register(print, "at exit")
    return 3

kept, cli.main = Kept(), main
watchdog._watchdog = {watchdog}
cli.run()
"""


@pytest.mark.parametrize(("watched", "said"), [("object()", "at exit\n"), ("None", "at exit\ndestroyed\n")])
def test_a_process_of_several_ends_after_what_is_registered_at_exit_and_before_destructors(watched, said):
    command = [sys.executable, "-c", ENDS.format(watchdog=watched)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, said), done.stderr
