"""Several processes as one: who they are, what one does for all, and what all must agree on."""

import json
import socket
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import jax

from jaxgpt.errors import UserError
from jaxgpt.runtime import signals, watchdog
from jaxgpt.runtime.cluster import Cluster
from jaxgpt.runtime.connecting import initialize
from jaxgpt.runtime.store import shared_store

_rounds: Counter[str] = Counter()
"""How often each exchange has happened: it does so in the same order in every process, and uses a name once."""

MOST_DIFFERENCES = 5


def connect(cluster: Cluster) -> None:
    """Join the other processes, before anything is computed, and watch over them until this process exits.

    Raises UserError where they cannot be found within `cluster.connect_seconds`.
    """
    if cluster.is_multiprocess:
        initialize(cluster)
        watchdog.start()
        signals.join_others()


def check_equal_hosts(devices: list[jax.Device]) -> None:
    """Raise UserError where processes see different numbers of devices."""
    counts = Counter(device.process_index for device in devices)
    if len(set(counts.values())) > 1:
        seen = ", ".join(f"{count} in process {process}" for process, count in sorted(counts.items()))
        raise UserError(f"the processes see different numbers of devices ({seen}): make them equal")


def count_hosts() -> int:
    """How many machines the processes run on, by their names."""
    store = shared_store()
    return 1 if store is None else len(set(store.exchange(_name("hosts"), socket.gethostname())))


def is_multiprocess() -> bool:
    """Whether this is one of several processes."""
    return shared_store() is not None


def is_main_process() -> bool:
    """Whether this process writes the files that all share, and prints."""
    store = shared_store()
    return jax.process_index() == 0 if store is None else store.process == 0


def on_main_process(action: Callable[[], object]) -> None:
    """Process 0 acts while the others wait. Raises UserError in all of them where it cannot."""
    from_main_process(lambda: bool(action()))


def from_main_process(action: Callable[[], bool]) -> bool:
    """What an action returns in process 0, in all processes. Raises UserError in all of them where it does."""
    store, name = shared_store(), _name("main")
    if store is None:
        return is_main_process() and action()
    if store.process == 0:
        try:
            answer = action()
        except (UserError, OSError) as error:
            store.put(f"{name}/answer", f"cannot go on: {error}")
            raise
        store.put(f"{name}/answer", str(answer))
        return answer
    said = store.wait(name, lambda: store.entries(name))["answer"]
    if said not in ("True", "False"):
        raise UserError(f"process 0 {said}")
    return said == "True"


def check_agreement(facts: dict[str, Any]) -> None:
    """Raise UserError in every process where they differ in what they are about to do.

    `facts` may be nested; what JSON does not know is compared by its text. Does nothing for one process.

    >>> check_agreement({"steps": 100, "optimizer": {"learning_rate": 6e-4}})
    """
    store, name = shared_store(), _name("facts")
    if store is None:
        return
    mine = json.dumps(_flat(facts), sort_keys=True, default=str)
    if len(set(store.exchange(f"{name}/hash", sha256(mine.encode()).hexdigest()))) == 1:
        return
    said = [json.loads(text) for text in store.exchange(f"{name}/all", mine)]
    raise UserError(
        f"the processes disagree: {describe_differences(said)}; start all of them with the same command, "
        "versions and files"
    )


def describe_differences(said: list[dict[str, Any]]) -> str:
    """Which fields differ, with each value and the processes that have it.

    >>> describe_differences([{"steps": 10, "seed": 0}, {"steps": 20, "seed": 0}, {"steps": 10, "seed": 0}])
    'steps is 10 in processes 0, 2 and 20 in process 1'
    """
    fields = sorted({field for facts in said for field in facts})
    different = [field for field in fields if len({_text(facts, field) for facts in said}) > 1]
    shown = [f"{field} is {_values(said, field)}" for field in different[:MOST_DIFFERENCES]]
    if len(different) > MOST_DIFFERENCES:
        shown.append(f"and {len(different) - MOST_DIFFERENCES} fields more")
    return "; ".join(shown)


def _values(said: list[dict[str, Any]], field: str) -> str:
    who: dict[str, list[int]] = {}
    for process, facts in enumerate(said):
        who.setdefault(_text(facts, field), []).append(process)
    return " and ".join(f"{value} in {_named(processes)}" for value, processes in who.items())


def _named(processes: list[int]) -> str:
    shown = ", ".join(map(str, processes[:8])) + (f" and {len(processes) - 8} more" if len(processes) > 8 else "")
    return f"process{'es' if len(processes) > 1 else ''} {shown}"


def _text(facts: dict[str, Any], field: str) -> str:
    return str(facts[field]) if field in facts else "absent"


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields under the words that lead to them, joined by dots."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _name(what: str) -> str:
    _rounds[what] += 1
    return f"{what}-{_rounds[what]}"
