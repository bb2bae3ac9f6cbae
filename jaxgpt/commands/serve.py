"""`jaxgpt serve`."""

import dataclasses
import ipaddress
import os
import sys
from pathlib import Path

import tyro

from jaxgpt.config import Backend, Weights
from jaxgpt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Serve a model over HTTP: OpenAI's /v1/completions and /v1/models, and a page to try it at /."""

    source: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    host: str = "127.0.0.1"
    """The address to listen on. 0.0.0.0: all, for which --api-key is needed."""
    port: int = 8000
    """The port to listen on. 0: any that is free."""
    api_key: str | None = None
    """What clients send as their API key. Also read from the variable JAXGPT_API_KEY."""
    name: str | None = None
    """What clients call the model. None: the source's last name."""
    max_rows: int = 8
    """How many texts are decoded together."""
    max_waiting: int = 64
    """How many requests may wait for a row; more are refused with code 429."""
    step: str = "latest"
    """Which checkpoint of a run: latest, best, or a step."""
    tokenizer: str | None = None
    """The source of another tokenizer: gpt2, a folder, a run, a hub id. None: the source's own."""
    attention: Backend | None = None
    """Attention backend by name, such as auto where the model's own cannot run here. None: the model's own."""
    weights: Weights | None = None
    """Keep the matrices in bfloat16, or in int8 with a scale for each output. None: in the model's dtype."""


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what is running; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt serve", args=arguments)
    key = chosen.api_key or os.environ.get("JAXGPT_API_KEY") or None
    check(chosen, key)
    try:
        import uvicorn

        from jaxgpt.serving.app import Service
    except ImportError as error:
        raise UserError(f"serving needs {error.name}, which is missing: pip install 'jaxgpt[serve]'") from None
    from jaxgpt.commands.generate import open_source
    from jaxgpt.serving.engine import Engine

    model, tokenizer = open_source(chosen.source, chosen.tokenizer, chosen.step, chosen.attention)
    engine = Engine(
        model,
        tokenizer.stop_tokens,
        tokenizer.vocab_size,
        max_rows=chosen.max_rows,
        max_waiting=chosen.max_waiting,
        weights=chosen.weights,
    )
    name = chosen.name or Path(chosen.source).name
    service = Service(engine, model, tokenizer, name, key)

    def print_address() -> None:
        """Uvicorn calls this once it handles signals, so that Ctrl-C shuts the server down cleanly."""
        host, port = socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        sys.stdout.write(f"{name} at http://{shown}:{port} (OpenAI's API at /v1); Ctrl-C or SIGTERM ends it\n")
        sys.stdout.flush()

    config = uvicorn.Config(
        service.app(print_address),
        host=chosen.host,
        port=chosen.port,
        log_level="warning",
        h11_max_incomplete_event_size=1 << 16,
    )
    server = uvicorn.Server(config)
    with config.bind_socket() as socket:
        socket.listen()  # whoever reads the address may connect
        try:
            server.run(sockets=[socket])
        except KeyboardInterrupt:  # uvicorn has finished what was running, and raises the signal again
            return 130
    return 0


def check(chosen: Arguments, key: str | None) -> None:
    """Raise UserError where the arguments cannot be served."""
    for name in ("max_rows", "max_waiting"):
        if getattr(chosen, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(chosen, name)} serves nobody; use at least 1")
    if not 0 <= chosen.port < 2**16:
        raise UserError(f"--port {chosen.port} is no port; use 1 to 65535, or 0 for any")
    if key is None and not _is_loopback(chosen.host):
        raise UserError(f"--host {chosen.host} lets others reach the server: give --api-key, which they must send")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
