"""A hub served over loopback: the same requests as to the real one, none of which leaves this machine."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from converters import load_pretrained, save_pretrained
from jaxgpt.config import GPTConfig

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(make_model, tmp_path):
    """The address of a hub with one model, owner/tiny, and the paths that were asked for."""
    save_pretrained(make_model(GPTConfig.preset("tiny")), tmp_path / "served", shard_bytes=40_000)
    (tmp_path / "served" / "pytorch_model.bin").write_bytes(b"what nobody needs")
    files = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path)
            if path == "/api/models/owner/tiny/revision/main":
                return self.answer(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": []}).encode())
            if path == f"/api/models/owner/tiny/tree/{COMMIT}":
                entries = [{"type": "file", "path": name, "size": len(raw), "oid": name} for name, raw in files.items()]
                return self.answer(json.dumps(entries).encode())
            name = path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
            return self.answer(files.get(name), ETag=f'"{name}"')

        do_HEAD = do_GET  # noqa: N815

        def answer(self, body, **headers):
            self.send_response(200 if body is not None else 404)
            headers |= {"X-Repo-Commit": COMMIT, "Content-Type": "application/json"}
            for name, value in {**headers, "Content-Length": str(len(body or b""))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def load_in_a_new_process(source, **environment):
    """What a process with this environment prints: a sum over the model, or the message it was refused with."""
    script = f"""
import numpy as np
from converters import load_pretrained
from jaxgpt.model.gpt import named_parameters
try:
    model = load_pretrained({source!r})
    print(sum(float(np.abs(value).sum()) for value in named_parameters(model).values()))
except ValueError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_hub_id_is_downloaded_once_and_found_again_off_line(hub, tmp_path):
    address, asked = hub
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": address}
    online = load_in_a_new_process("owner/tiny", HF_HUB_OFFLINE="0", **cache)
    assert float(online) > 0
    assert not any(path.endswith(".bin") for path in asked), "only what is needed is downloaded"
    assert f"/owner/tiny/resolve/{COMMIT}/model-00001-of-00004.safetensors" in asked
    asked.clear()
    assert load_in_a_new_process("owner/tiny", HF_HUB_OFFLINE="1", **cache) == online
    assert not asked
    missing = load_in_a_new_process("owner/none", HF_HUB_OFFLINE="0", **cache)
    assert missing.startswith("refused: owner/none is no path on this machine, and the hub gave no such model")


def test_off_line_a_hub_id_that_is_not_cached_is_one_clear_message():
    with pytest.raises(ValueError, match="owner/tiny is no path on this machine, and the hub gave no such model"):
        load_pretrained("owner/tiny")
