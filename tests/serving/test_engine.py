"""Requests that are decoded together each get what they would get alone."""

import dataclasses
import queue
import time

import numpy as np
import pytest
from flax import nnx

from jaxgpt.config import GPTConfig
from jaxgpt.inference import programs
from jaxgpt.inference.generate import generate
from jaxgpt.inference.settings import Settings
from jaxgpt.model.gpt import GPT
from jaxgpt.serving.engine import Engine, QueueFullError, Request
from tests.serving.conftest import CONFIG
from tests.variants import VARIANTS, loud

FREE = Settings(temperature=1.5, top_k=40)


class Client:
    """Waits for the tokens of one request."""

    def __init__(self, tokens, max_tokens, settings=FREE, seed=0, **rest):
        self.pieces = queue.Queue()
        self.request = Request(np.asarray(tokens), max_tokens, settings, (seed, 0, 0), self.pieces.put, **rest)

    def tokens(self):
        found, piece = [], None
        while piece is None or piece.finish is None:
            piece = self.pieces.get(timeout=300)
            found += piece.tokens
        self.finish = piece.finish
        return found


def prompts(config, count, longest=20):
    rng = np.random.default_rng(0)
    return [rng.integers(0, config.vocab_size, rng.integers(1, longest)) for _ in range(count)]


@pytest.fixture
def engine():
    engines = []

    def make(*arguments, **settings):
        engines.append(Engine(*arguments, **settings))
        return engines[-1]

    yield make
    for one in engines:
        one.close()


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        pytest.param(dataclasses.replace(VARIANTS["rotary"], window=(5, 9), context_length=64), marks=pytest.mark.slow),
    ],
    ids=["bounded", "unbounded"],
)
def test_each_gets_what_it_would_get_alone(config, engine):
    """Rows join and leave at any time: eleven requests of several lengths and settings through four rows."""
    model, server = loud(config), engine(loud(config), max_rows=4)
    choices = [FREE, Settings(temperature=0), Settings(temperature=0.7), Settings(temperature=2, top_p=0.8)]
    clients = [
        Client(prompt, 3 + 4 * i, choices[i % 4], seed=i, logprobs=i % 3 == 0)
        for i, prompt in enumerate(prompts(config, 11))
    ]
    for number, client in enumerate(clients):
        server.submit([client.request])
        if number in (1, 5):
            time.sleep(0.3)
    for i, client in enumerate(clients):
        one = client.request
        rest = dataclasses.asdict(one.settings)
        alone = generate(model, [one.tokens], one.max_tokens, seed=[i], **rest)[0, len(one.tokens) :]
        assert client.tokens() == alone.tolist()
        assert client.finish == "length"
    assert server.active == server.waiting == 0


def test_a_stop_token_ends_a_request_and_frees_its_row(engine):
    prompt = prompts(CONFIG, 1)[0]
    whole = generate(loud(CONFIG), [prompt], 20, temperature=0)[0, len(prompt) :].tolist()
    server = engine(loud(CONFIG), stop_tokens=[whole[7]])
    client = Client(prompt, 20, Settings(temperature=0))
    server.submit([client.request])
    assert client.tokens() == whole[: whole.index(whole[7])]
    assert client.finish == "stop"


def test_prompts_that_wait_are_read_together(engine, monkeypatch):
    read, prefill = [], programs.prefill

    def counted(model, tokens, *rest, **settings):
        read.append(tokens.shape)
        return prefill(model, tokens, *rest, **settings)

    monkeypatch.setattr("jaxgpt.serving.engine.prefill", counted)
    server, clients = engine(loud(CONFIG)), [Client(prompt, 4) for prompt in prompts(CONFIG, 3)]
    server.submit([client.request for client in clients])
    assert [len(client.tokens()) for client in clients] == [4, 4, 4]
    assert read == [(4, 64)]  # three of them and an idle row


def test_a_queue_that_is_full_refuses_all_or_none(engine):
    server = engine(loud(CONFIG), max_rows=1, max_waiting=3)
    clients = [Client([1], 50) for _ in range(5)]
    with pytest.raises(QueueFullError):
        server.submit([client.request for client in clients])
    assert server.waiting == 0
    server.submit([client.request for client in clients[:3]])
    for client in clients[:3]:
        assert len(client.tokens()) == 50


def test_a_request_that_nobody_waits_for_frees_its_row(engine):
    server = engine(loud(dataclasses.replace(VARIANTS["windowed"], position="rotary")), max_rows=1)
    forever, after = Client([1], 10**6), Client([1], 4)
    server.submit([forever.request, after.request])
    forever.pieces.get(timeout=300)
    assert server.waiting == 1
    forever.request.cancelled = True
    assert len(after.tokens()) == 4


def test_the_end_of_the_server_is_told(engine):
    server = Engine(loud(dataclasses.replace(VARIANTS["windowed"], position="rotary")), max_rows=1)
    clients = [Client([1], 10**6) for _ in range(2)]
    server.submit([client.request for client in clients])
    clients[0].pieces.get(timeout=300)
    server.close()
    for client in clients:
        client.tokens()
        assert client.finish == "shutdown"
    with pytest.raises(QueueFullError):
        server.submit([Client([1], 1).request])


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_eight_clients_are_served_at_three_times_the_speed_of_one_after_another(engine):
    config = GPTConfig.preset("gpt2")  # whose weights' reading is most of a token's time
    server = engine(GPT(config, rngs=nnx.Rngs(0)))

    def seconds(together):
        clients = [Client([1, 2, 3], 64, seed=i) for i in range(8)]
        start = time.perf_counter()
        for client in clients:
            server.submit([client.request])
            if not together:
                client.tokens()
        for client in clients if together else ():
            client.tokens()
        return time.perf_counter() - start

    for together in (False, True):
        seconds(together)
    assert seconds(together=False) >= 3 * seconds(together=True)
