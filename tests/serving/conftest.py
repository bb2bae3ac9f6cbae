"""A server on the loopback, in a thread of the test."""

import contextlib
import threading
import time

import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.data.hf_tokenizer import train_bpe
from jaxgpt.model.gpt import GPT
from jaxgpt.serving.engine import Engine
from tests.variants import loud

CONFIG = GPTConfig(vocab_size=300, context_length=64, num_layers=2, num_heads=4, d_model=32)


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe(["low lower lowest new newer newest wide wider naïve 🤖 \n"] * 40, 286)


@pytest.fixture(scope="session")
def model() -> GPT:
    return loud(CONFIG)


@pytest.fixture
def serve(model, tokenizer):
    """A function that serves the model; returns its address and its engine."""
    uvicorn = pytest.importorskip("uvicorn")
    from jaxgpt.serving.app import Service

    with contextlib.ExitStack() as stack:

        def start(model=model, api_key=None, app=None, **settings):
            engine = Engine(model, tokenizer.stop_tokens, tokenizer.vocab_size, **settings)
            served = Service(engine, model, tokenizer, "tiny", api_key).app()
            if app is not None:
                app(served)
            config = uvicorn.Config(served, port=0, log_level="error")
            server, socket = uvicorn.Server(config), config.bind_socket()
            thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
            thread.start()

            def end():
                server.should_exit = True
                thread.join()
                socket.close()

            stack.callback(end)
            while not server.started:
                time.sleep(0.01)
            return f"http://127.0.0.1:{socket.getsockname()[1]}", engine

        yield start
