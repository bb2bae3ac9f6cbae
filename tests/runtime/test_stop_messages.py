"""What a signal says: when it came, what is kept, and how to go on."""

import os
import signal
import sys

import pytest

from jaxgpt.runtime.signals import Stops


@pytest.mark.parametrize(
    ("phase", "resume", "said"),
    [
        ("start", None, "before the first step; no run was made: tokens and programs that were ready are kept"),
        ("start", "RESUME", "before the first step; the run is made, and tokens and programs that were ready are kept"),
        ("start", "RESUME", "; go on with: RESUME"),
        ("end", "RESUME", "after the last step; go on with: RESUME"),
    ],
)
def test_a_signal_outside_the_steps_says_what_is_kept_and_how_to_go_on(phase, resume, said):
    stops = Stops()
    stops.phase, stops.resume = phase, resume
    assert said in stops.message(signal.SIGINT)
    assert stops.message(signal.SIGINT).startswith("stopped by SIGINT ")


class Dying:
    """An object in whose destructor a signal arrives."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_a_destructor_is_noted_and_is_no_error(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    stops = Stops()
    stops.install()
    try:
        Dying()
    finally:
        stops.restore()
    assert stops.received == [signal.SIGTERM]
    assert told == []
