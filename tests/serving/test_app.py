"""OpenAI's own client against the server."""

import json
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.inference.generate import generate
from tests.variants import forward, loud

openai = pytest.importorskip("openai")

GREEDY = {"model": "tiny", "temperature": 0}


@pytest.fixture
def client(serve):
    address, _ = serve()
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as found:
        yield found


def alone(model, tokenizer, prompt, count, **settings):
    """The tokens that `generate` makes."""
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
    settings = {"temperature": 0, "num_tokens": tokenizer.vocab_size, "stop_token": tokenizer.stop_tokens} | settings
    new = generate(model, [ids], count, **settings)[0, len(ids) :].tolist()
    ends = [at for at, token in enumerate(new) if token in tokenizer.stop_tokens]
    return new[: ends[0]] if ends else new


def test_a_text_is_continued(client, model, tokenizer):
    found = client.completions.create(prompt="low newer", max_tokens=20, **GREEDY)
    expected = alone(model, tokenizer, "low newer", 20)
    assert found.choices[0].text == tokenizer.decode(expected)
    assert found.choices[0].finish_reason == ("length" if len(expected) == 20 else "stop")
    assert found.usage.prompt_tokens == len(tokenizer.encode("low newer"))
    assert found.usage.completion_tokens == len(expected)
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def test_prompts_of_every_form_and_several_choices(client, model, tokenizer):
    ids = tokenizer.encode("wide").tolist()
    for prompt, prompts in (
        (ids, [ids]),
        (["low", "wide"], ["low", "wide"]),
        ([ids, ids[:1]], [ids, ids[:1]]),
        ("", [[tokenizer.end_of_text]]),
    ):
        settings = {"temperature": 1.3, "seed": 7}
        found = client.completions.create(model="tiny", prompt=prompt, max_tokens=9, n=2, **settings).choices
        assert [choice.index for choice in found] == list(range(2 * len(prompts)))
        for number, one in enumerate(prompts):
            first = alone(model, tokenizer, one, 9, **settings)
            assert found[2 * number].text == tokenizer.decode(first)
            assert found[2 * number + 1].text != found[2 * number].text


def test_a_stream_is_the_whole_in_parts(client):
    settings = {"prompt": "naïve 🤖", "max_tokens": 40, "temperature": 1.5, "seed": 3, "logprobs": 2, "n": 2}
    whole = client.completions.create(model="tiny", **settings)
    parts = list(client.completions.create(model="tiny", stream=True, **settings))
    assert len(parts) > 4
    for index, choice in enumerate(whole.choices):
        mine = [part.choices[0] for part in parts if part.choices[0].index == index]
        assert "".join(part.text for part in mine) == choice.text
        assert [part.finish_reason for part in mine] == [None] * (len(mine) - 1) + [choice.finish_reason]
        assert [t for part in mine for t in part.logprobs.tokens] == choice.logprobs.tokens
        assert [o for part in mine for o in part.logprobs.text_offset] == choice.logprobs.text_offset


def test_a_stop_text_ends_the_text_before_it(client, model, tokenizer):
    whole = tokenizer.decode(alone(model, tokenizer, "low", 30))
    stop = whole[5:8]
    found = client.completions.create(prompt="low", max_tokens=30, stop=["never", stop], **GREEDY).choices[0]
    assert (found.text, found.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_echo_and_log_probabilities_are_the_models(client, model, tokenizer):
    """What lm-eval's local-completions sends and reads."""
    ids = tokenizer.encode("lower newest").tolist()
    found = client.completions.create(prompt=ids, max_tokens=1, logprobs=1, echo=True, **GREEDY).choices[0]
    tokens = np.array([found.logprobs.token_ids])
    assert tokens[0, :-1].tolist() == ids
    assert found.text == tokenizer.decode(tokens[0])
    scores = np.asarray(forward(model, np.pad(tokens, ((0, 0), (0, 5)))))[0, :, : tokenizer.vocab_size]
    scores = scores.astype(np.float64)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    assert found.logprobs.token_logprobs[0] is None
    for at, (token, logprob) in enumerate(zip(tokens[0, 1:], found.logprobs.token_logprobs[1:], strict=True)):
        assert logprob == pytest.approx(scores[at, token], abs=1e-4)
        assert next(iter(found.logprobs.top_logprobs[at + 1].values())) == pytest.approx(scores[at].max(), abs=1e-4)
    nothing = client.completions.create(prompt=ids, max_tokens=0, logprobs=1, echo=True, **GREEDY).choices[0]
    assert nothing.logprobs.token_ids == ids


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 200}, "the model reads 64 tokens, and the prompt has"),
        ({"temperature": -1}, "temperature=-1.0 is below 0"),
        ({"top_p": 0}, "top_p=0.0 is not a probability"),
        ({"n": 100}, "n=100 has to be a whole number from 1 to 16"),
        ({"logprobs": 6}, "logprobs=6"),
        ({"presence_penalty": 1}, "presence_penalty=1 is not supported"),
        ({"extra_body": {"colour": 1}}, "colour is not known"),
        ({"prompt": [[1, 300]]}, "token 300 is not in the vocabulary"),
        ({"prompt": [1.5]}, "prompt has to be a text"),
        ({"max_tokens": 0}, "max_tokens=0 asks for nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_with_the_reason(client, fields, message):
    with pytest.raises(openai.BadRequestError, match=message):
        client.completions.create(**{"model": "tiny", "prompt": "low"} | fields)


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-5' here; there is 'tiny'"):
        client.completions.create(model="gpt-5", prompt="low")


def post(address, body):
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_body_that_is_too_long_or_no_json_is_refused(serve, monkeypatch):
    monkeypatch.setattr("jaxgpt.serving.app.LONGEST_BODY", 1000)
    address, _ = serve()
    long, deep = b" " * 2000, b"[" * 900
    for body, message in ((long, "longer than 1000 bytes"), (b"{", "not JSON"), (deep, "not"), (b"[]", "object")):
        code, answer = post(address, body)
        assert code == 400
        assert message in answer["error"]["message"]


def test_a_key_is_asked_for_everywhere_but_on_the_page(serve):
    address, _ = serve(api_key="secret")
    for key, allowed in (("secret", True), ("wrong", False), ("", False)):
        with openai.OpenAI(base_url=f"{address}/v1", api_key=key or "x", max_retries=0) as client:
            if allowed:
                assert client.completions.create(prompt="low", max_tokens=2, **GREEDY).choices[0].finish_reason
            else:
                with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
                    client.models.list()
    with urllib.request.urlopen(address, timeout=60) as page:
        assert b"<title>" in page.read()


ENDLESS = GPTConfig(
    vocab_size=300, context_length=64, num_layers=1, num_heads=4, d_model=32, position="rotary", window=8
)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_row(serve, stream):
    address, engine = serve(loud(ENDLESS), max_rows=1)
    body = json.dumps({"prompt": "low", "max_tokens": 10**6, "stream": stream}).encode()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: engine.active == 1)
    wait_for(lambda: engine.active == 0)


def test_a_queue_that_is_full_answers_429(serve):
    address, engine = serve(loud(ENDLESS), max_rows=1, max_waiting=1)
    with openai.OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        streams = [client.completions.create(model="tiny", prompt="a", max_tokens=10**6, stream=True)]
        wait_for(lambda: engine.active == 1)
        streams.append(client.completions.create(model="tiny", prompt="a", max_tokens=10**6, stream=True))
        with pytest.raises(openai.RateLimitError, match="1 requests are waiting"):
            client.completions.create(model="tiny", prompt="a", max_tokens=5)
        for one in streams:
            one.close()
        wait_for(lambda: engine.active == engine.waiting == 0)
        assert client.completions.create(model="tiny", prompt="a", max_tokens=5).choices[0].text is not None


def test_clients_at_once_each_get_what_they_would_get_alone(client, model, tokenizer):
    def ask(seed):
        found = client.completions.create(model="tiny", prompt="low " * (1 + seed % 3), max_tokens=12, seed=seed)
        return found.choices[0].text

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(12)))
    for seed, text in enumerate(found):
        expected = alone(model, tokenizer, "low " * (1 + seed % 3), 12, temperature=1, seed=seed)
        assert text == tokenizer.decode(expected)
