"""A hub served over loopback: the same requests as to the real one, none of which leaves this machine."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from converters import load_pretrained, save_pretrained
from converters.hub import local_path
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(make_model, tmp_path):
    """The address of a hub, the paths that were asked of it, and the folder whose folders it serves as owner/NAME."""
    served, asked = tmp_path / "served", []
    save_pretrained(make_model(GPTConfig.preset("tiny")), served / "tiny", shard_bytes=40_000)
    (served / "tiny" / "pytorch_model.bin").write_bytes(b"what nobody needs")

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path)
            found = re.search(r"/owner/(\w+)/(revision/main|tree|resolve)", path)
            folder = served / found[1]
            if not folder.exists():
                return self.answer(None)
            if found[2] == "revision/main":
                return self.answer(json.dumps({"id": f"owner/{found[1]}", "sha": COMMIT, "siblings": []}).encode())
            files = {file.name: file.read_bytes() for file in folder.iterdir()}
            if found[2] == "tree":
                entries = [{"type": "file", "path": name, "size": len(raw), "oid": name} for name, raw in files.items()]
                return self.answer(json.dumps(entries).encode())
            name = Path(path).name
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
    yield f"http://127.0.0.1:{server.server_port}", asked, served
    server.shutdown()
    server.server_close()


def load_in_a_new_process(source, **environment):
    """What a process with this environment prints: a sum over the model, or the message it was refused with."""
    script = f"""
import numpy as np
from converters import load_pretrained
from jaxgpt.model.parameters import named_parameters
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
    address, asked, _ = hub
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


@pytest.mark.slow
@pytest.mark.parametrize("shards", [1, 2])
def test_a_hub_id_that_has_only_pickles_is_the_same_model(hub, tmp_path, shards):
    torch = pytest.importorskip("torch", reason="torch reads and writes these files, and is not installed")
    from safetensors.torch import load_file

    address, asked, served = hub
    state = {name: value for file in (served / "tiny").glob("*.safetensors") for name, value in load_file(file).items()}
    (served / "pickled").mkdir()
    shutil.copy(served / "tiny" / "config.json", served / "pickled")
    names, where = sorted(state), {}
    for number in range(shards):
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: state[name] for name in names[number::shards]}, served / "pickled" / file)
        where |= dict.fromkeys(names[number::shards], file)
    if shards > 1:
        (served / "pickled" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": address}
    online = load_in_a_new_process("owner/pickled", HF_HUB_OFFLINE="0", **cache)
    assert online == load_in_a_new_process(str(served / "tiny"))
    asked.clear()
    assert load_in_a_new_process("owner/pickled", HF_HUB_OFFLINE="1", **cache) == online
    assert not asked


def test_a_hub_id_without_weights_is_one_clear_message(hub, tmp_path):
    address, _, served = hub
    (served / "empty").mkdir()
    shutil.copy(served / "tiny" / "config.json", served / "empty")
    cache = {"HF_HOME": str(tmp_path / "cache"), "HF_ENDPOINT": address}
    message = load_in_a_new_process("owner/empty", HF_HUB_OFFLINE="0", **cache)
    assert message.startswith("refused: ")
    assert message.endswith("no weights to load")


@pytest.mark.parametrize("name", ["../nowhere", "./nowhere", "owner/a--b", "owner/" + "x" * 200])
def test_a_path_that_is_not_there_and_no_hub_id_is_one_clear_message(name):
    with pytest.raises(UserError, match="is no path on this machine, and the hub gave no such model: .*Repo id|--"):
        local_path(name)


def test_off_line_a_hub_id_that_is_not_cached_is_one_clear_message():
    with pytest.raises(ValueError, match="owner/tiny is no path on this machine, and the hub gave no such model"):
        load_pretrained("owner/tiny")
