"""A process that is lost must not leave the others waiting for it: they stop, and say why.

The runtime would end them too, later and with a stack trace for a message; its collectives wait for ever.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the store that processes share has no public name

BEAT_SECONDS = 2
SILENT_SECONDS = 20
"""After this long without a beat a process is taken for lost."""
LOST = 3
"""The exit code of one of several processes that cannot go on."""
FOLDER, DONE = "jaxgpt/alive/", "done"


@contextmanager
def peer_watchdog(cure: str) -> Iterator[None]:
    """Within, this process ends at once, with a message, where it or another cannot go on.

    Not by an exception: on its way out it would meet barriers that the lost process never reaches.
    """
    if jax.process_count() == 1:
        yield
        return
    ended = threading.Event()
    store: Any = distributed.global_state.client
    watch = threading.Thread(target=_watch, args=(store, ended, cure), daemon=True)
    watch.start()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        _leave(f"another process is gone or has failed ({str(error).splitlines()[0][:200]})", cure)
    except ValueError as error:
        _leave(str(error), cure)
    finally:
        ended.set()
        watch.join()
        store.key_value_set(FOLDER + str(jax.process_index()), DONE, allow_overwrite=True)


def _watch(store: Any, ended: threading.Event, cure: str) -> None:
    """Beat, and listen to the others, by their counters alone: no two clocks are compared."""
    me, beat = str(jax.process_index()), 0
    heard: dict[str, tuple[str, float]] = {}
    while not ended.wait(BEAT_SECONDS):
        beat += 1
        try:
            store.key_value_set(FOLDER + me, str(beat), allow_overwrite=True)
            counters = dict(store.key_value_dir_get(FOLDER))
        except jax.errors.JaxRuntimeError:
            _leave("process 0 does not answer", cure)
        now = time.monotonic()
        for name, counter in counters.items():
            before, since = heard.get(name, ("", now))
            heard[name] = (counter, since if counter == before else now)
            if counter != DONE and now - heard[name][1] > SILENT_SECONDS:
                _leave(f"process {name.removeprefix(FOLDER)} has been silent for {SILENT_SECONDS} seconds", cure)


def _leave(reason: str, cure: str) -> NoReturn:
    print(f"jaxgpt: process {jax.process_index()} stops: {reason}; {cure}", file=sys.stderr, flush=True)  # noqa: T201
    os._exit(LOST)
