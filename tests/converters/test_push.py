"""`jaxgpt convert --push-to`, to a hub on loopback: it gets what was written, and nothing where that failed."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from converters import commands, hub, load_pretrained, save_pretrained
from converters.arguments import Convert
from converters.commands import convert
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.parameters import named_parameters

TINY = GPTConfig.preset("tiny")


@pytest.fixture
def kept(tmp_path):
    """The address of a hub, what was asked of it, and the folder where it keeps what it takes. It knows one token."""
    asked, folder = [], tmp_path / "kept"

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            asked.append(self.path)
            if self.headers["authorization"] != "Bearer hf_right":
                return self.answer(401, {"error": "Invalid username or password."})
            if self.path == "/api/repos/create":
                wanted = json.loads(body)
                assert (wanted["name"], wanted["organization"], wanted["visibility"]) == ("tiny", "owner", "private")
                return self.answer(200, {"url": f"{address}/owner/tiny"})
            if "/preupload/" in self.path:
                files = [{"path": file["path"]} for file in json.loads(body)["files"]]
                return self.answer(
                    200, {"files": [f | {"uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            if "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        folder.mkdir(exist_ok=True)
                        (folder / line["value"]["path"]).write_bytes(base64.b64decode(line["value"]["content"]))
                return self.answer(200, {"commitUrl": f"{address}/owner/tiny/commit/abc", "commitOid": "abc"})
            return self.answer(200, {"errors": [], "warnings": []})  # of the model card's fields

        def do_GET(self):
            asked.append(self.path)
            self.answer(200, {"id": "owner/tiny", "sha": "abc", "siblings": []})

        def answer(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield address, asked, folder
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(make_model, tmp_path):
    save_pretrained(make_model(TINY), tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.slow
def test_what_was_written_is_kept_by_the_hub_with_its_card(source, kept, tmp_path):
    address, asked, folder = kept
    run = [sys.executable, "-m", "jaxgpt", "convert", str(source), str(tmp_path / "out"), "--push-to", "owner/tiny"]
    settings = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(run, env=os.environ | settings | {"HF_TOKEN": "hf_right"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"pushed to {address}/owner/tiny; a new model is private" in done.stdout
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert b'AutoModelForCausalLM.from_pretrained("owner/tiny")' in files["README.md"]
    one, other = (named_parameters(load_pretrained(path)) for path in (source, folder))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    asked.clear()
    wrong = subprocess.run(
        [*run[:-3], str(tmp_path / "again"), *run[-2:]],
        env=os.environ | settings | {"HF_TOKEN": "hf_wrong"},
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert f"{tmp_path / 'again'} is written, and the hub did not take it as owner/tiny" in wrong.stderr
    assert "hf upload owner/tiny" in wrong.stderr
    assert (tmp_path / "again" / "model.safetensors").exists()


@pytest.fixture
def pushed(monkeypatch):
    """The folders that would have been pushed by somebody who is logged in."""
    found = []
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "get_token", lambda: "hf_right")
    monkeypatch.setattr(commands, "push", lambda folder, name: found.append(folder) or name)
    return found


def test_nothing_is_pushed_where_verification_or_writing_failed(source, pushed, tmp_path, monkeypatch):
    def exceeded(folder: Path):
        raise UserError("transformers computes something else")

    monkeypatch.setattr(commands, "certify", exceeded)
    with pytest.raises(UserError, match="something else"):
        convert(Convert(str(source), tmp_path / "out", push_to="owner/tiny", verify=True))
    with pytest.raises(UserError, match="is not an empty folder"):
        convert(Convert(str(source), source, push_to="owner/tiny"))
    convert(Convert(str(source), tmp_path / "out", push_to="owner/tiny", dry_run=True))
    assert pushed == []
    convert(Convert(str(source), tmp_path / "out", push_to="owner/tiny"))
    assert pushed == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("token", "offline", "name", "words"),
    [
        (None, False, "owner/tiny", "log in by `hf auth login`, or set HF_TOKEN"),
        ("hf_right", True, "owner/tiny", "HF_HUB_OFFLINE is set"),
        ("hf_right", False, "tiny", "write OWNER/NAME"),
        ("hf_right", False, "owner/../tiny", "write OWNER/NAME"),
    ],
)
def test_who_cannot_push_is_told_before_anything_is_read(tmp_path, monkeypatch, pushed, token, offline, name, words):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(hub, "get_token", lambda: token)
    with pytest.raises(UserError, match=words):
        convert(Convert("no/such", tmp_path / "out", push_to=name))
    assert pushed == []
