"""What processes agree on before they compute, with threads for processes and a dict for the store."""

import json
import threading

import pytest

from jaxgpt.errors import UserError
from jaxgpt.runtime import processes
from jaxgpt.runtime.processes import check_agreement, describe_differences, on_main_process
from jaxgpt.runtime.store import Store


class SharedDict(Store):
    """A store of one process, in a dict that several share."""

    def __init__(self, texts, process, count):
        self._texts, self.process, self.count = texts, process, count

    def put(self, name, text):
        self._texts[name] = text

    def entries(self, folder):
        prefix = f"{folder}/"
        return {name.removeprefix(prefix): text for name, text in list(self._texts.items()) if name.startswith(prefix)}


@pytest.fixture
def together(monkeypatch):
    """Runs a function in several threads that are each a process; returns what each raised, or None."""
    me = threading.local()
    monkeypatch.setattr(processes, "shared_store", lambda: me.store)
    monkeypatch.setattr(processes, "_name", lambda what: what)

    def run(*actions):
        texts, raised = {}, [None] * len(actions)

        def act(process, action):
            me.store = SharedDict(texts, process, len(actions))
            try:
                action()
            except (UserError, OSError) as error:
                raised[process] = error

        threads = [threading.Thread(target=act, args=each) for each in enumerate(actions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        return raised

    return run


FACTS = {"command": "a new run", "config": {"steps": 10, "optimizer": {"learning_rate": 6e-4}}, "mesh": [1, 2]}


def test_processes_that_are_about_to_do_the_same_go_on(together):
    assert together(*[lambda: check_agreement(FACTS)] * 3) == [None] * 3


def test_processes_that_differ_all_refuse_and_name_field_values_and_processes(together):
    other = json.loads(json.dumps(FACTS))
    other["config"]["optimizer"]["learning_rate"] = 1e-3
    del other["mesh"]
    raised = together(lambda: check_agreement(FACTS), lambda: check_agreement(other), lambda: check_agreement(FACTS))
    expected = (
        "the processes disagree: config.optimizer.learning_rate is 0.0006 in processes 0, 2 and 0.001 in process 1; "
        "mesh is [1, 2] in processes 0, 2 and absent in process 1; start all of them with the same command, versions "
        "and files"
    )
    assert [str(error) for error in raised] == [expected] * 3


def test_only_the_first_differences_are_listed():
    one, other = ({f"field{i}": i + offset for i in range(9)} for offset in (0, 1))
    assert describe_differences([one, other]).endswith("field4 is 4 in process 0 and 5 in process 1; and 4 fields more")


def test_the_main_process_acts_while_the_others_wait(together):
    done = []
    assert together(*[lambda: on_main_process(lambda: done.append(1))] * 3) == [None] * 3
    assert done == [1]


def test_what_the_main_process_cannot_do_is_told_by_all(together):
    def fail():
        raise UserError("--run runs/a is not empty")

    raised = together(*[lambda: on_main_process(fail)] * 2)
    assert [str(error) for error in raised] == [
        "--run runs/a is not empty",
        "process 0 cannot go on: --run runs/a is not empty",
    ]
