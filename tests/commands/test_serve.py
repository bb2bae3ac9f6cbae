"""`jaxgpt serve` as a user starts and ends it."""

import json
import signal
import urllib.request

import pytest

from tests.runs import jaxgpt, start


def test_a_server_ends_by_sigterm_when_it_has_answered(trained):
    pytest.importorskip("uvicorn")
    server = start("serve", trained, "--port", 0, "--name", "mine")
    try:
        line = server.stdout.readline()
        assert line.startswith("mine at http://127.0.0.1:"), server.communicate()
        address = line.split()[2]
        body = {"prompt": "abcd", "max_tokens": 20, "stream": True}
        request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=120) as answer:
            first = answer.readline()
            server.send_signal(signal.SIGTERM)
            events = [json.loads(event[6:]) for event in (first, *answer) if event.startswith(b"data: {")]
            assert events[-1]["choices"][0]["finish_reason"] == "length"
        out, err = server.communicate(timeout=120)
        assert (out, err) == ("", "")
        assert server.returncode in (0, 143, -signal.SIGTERM)
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--host", "0.0.0.0"), "--host 0.0.0.0 lets others reach the server: give --api-key"),
        (("--port", "70000"), "--port 70000 is no port"),
        (("--max-rows", "0"), "--max-rows 0 serves nobody"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused(trained, flags, message):
    outcome = jaxgpt("serve", trained, *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err


def test_without_the_extra_its_name_is_told(trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    outcome = jaxgpt("serve", trained)
    assert outcome.code == 2
    assert "pip install 'jaxgpt[serve]'" in outcome.err
