"""The store that processes share while they run: small texts under names, kept by process 0 (JAX's coordinator)."""

import time
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the store has no public name

ROOT = "jaxgpt/"
WAITS = "waits"
CROSSED_SECONDS = 20
StoreError = jax.errors.JaxRuntimeError
"""Process 0 does not answer any more, or another process has failed."""


class Store:
    """Texts that every process can write and read. Each call is one message to process 0."""

    def __init__(self) -> None:
        state: Any = distributed.global_state
        self._client, self.process, self.count = state.client, int(state.process_id), int(state.num_processes)

    def put(self, name: str, text: str) -> None:
        self._client.key_value_set(ROOT + name, text, allow_overwrite=True)

    def put_first(self, name: str, text: str) -> None:
        """Of several processes that put, the first one counts."""
        try:
            self._client.key_value_set(ROOT + name, text, allow_overwrite=False)
        except StoreError as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def entries(self, folder: str) -> dict[str, str]:
        """All texts whose names begin with `folder`/, by the rest of the name."""
        prefix = f"{ROOT}{folder}/"
        return {name.removeprefix(prefix): text for name, text in self._client.key_value_dir_get(prefix)}

    def exchange(self, name: str, text: str) -> list[str]:
        """The texts of all processes under a name used once, by process. Waits for all; a signal may interrupt it."""
        self.put(f"{name}/{self.process}", text)
        found = self.wait(name, lambda: self._all(name))
        return [found[str(process)] for process in range(self.count)]

    def _all(self, name: str) -> dict[str, str] | None:
        found = self.entries(name)
        return found if len(found) == self.count else None

    def wait(self, name: str, found: Callable[[], dict[str, str] | None]) -> dict[str, str]:
        """Ask until there is an answer, at longer and longer intervals. The watchdog ends a wait for a lost process.

        Raises RuntimeError where every process waits, and for different things: they did not do the same.
        """
        pause, since = 0.005, time.monotonic()
        while not (answer := found()):
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
            if time.monotonic() - since > CROSSED_SECONDS / 2:
                self.put(f"{WAITS}/{self.process}", name)
                waits = self.entries(WAITS)
                if len(waits) < self.count or "" in waits.values() or len(set(waits.values())) == 1:
                    since = max(since, time.monotonic() - CROSSED_SECONDS / 2 - 1)
                elif time.monotonic() - since > CROSSED_SECONDS:
                    raise RuntimeError(f"the processes wait for different things: {waits}")
        self.put(f"{WAITS}/{self.process}", "")
        return answer


def shared_store() -> Store | None:
    """The store, where there are several processes."""
    state: Any = distributed.global_state
    return Store() if state.client is not None and state.num_processes > 1 else None
