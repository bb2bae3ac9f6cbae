"""What does a user wait for: ten prompts of ten lengths, and eight clients of the server at once?

    python -m experiments.serve

A GPT-2 of random weights continues each prompt greedily, here, in transformers and in llama.cpp (float32), in turn. The
first pass is that of a new process without a program cache, so it compiles; the second is what every later prompt
costs. Then eight clients ask `jaxgpt serve` and llama.cpp's server by HTTP, one after another and all at once;
transformers has no such server, so its prompts are continued one after another, and as one batch that it is given at
once. Needs xllamacpp besides the test extra. --parts measures one of the two and keeps the other of the saved result.
"""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments import evidence

CLIENTS = 8
PACKAGES = ("torch", "transformers", "xllamacpp", "starlette", "uvicorn")
LLAMACPP = {"ignore_eos": True, "cache_prompt": False}
"""What llama.cpp's server is asked besides."""

Part = Literal["prompts", "server"]


def main(
    preset: str = "gpt2",
    prompts: int = 10,
    new_tokens: int = 64,
    client_tokens: int = 64,
    parts: tuple[Part, ...] = ("prompts", "server"),
    results: Path = evidence.RESULTS,
) -> dict[str, Any]:
    """Measure, and save the result.

    Args:
        preset: The architecture, by the name of a GPTConfig.
        prompts: How many prompts, of different lengths.
        new_tokens: How many tokens each gets.
        client_tokens: How many tokens each client asks for.
        parts: What is measured.
        results: Where the result goes.
    """
    import jax
    from flax import nnx

    from experiments import peers
    from jaxgpt.config import GPTConfig
    from jaxgpt.model.gpt import GPT

    environment = evidence.environment("python -m experiments.serve", *PACKAGES)
    model = GPT(GPTConfig.preset(preset, position="learned", dtype="float32"), rngs=nnx.Rngs(0))
    theirs = peers.transformers_model(model)
    usual = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)  # the first pass compiles all that it needs
    result: dict[str, Any] = {"preset": preset, "new_tokens": new_tokens, "client_tokens": client_tokens}
    if (results / "serve.json").exists() and result.items() <= (kept := evidence.read("serve", results)).items():
        result = kept
    try:
        llamacpp = peers.llamacpp_server(model, "float32", CLIENTS)
        if "prompts" in parts:
            result["prompts"] = ten_prompts(model, theirs, llamacpp.listening_address, prompts, new_tokens)
        if "server" in parts:
            result["server"] = server(model, theirs, llamacpp.listening_address, client_tokens)
    finally:
        jax.config.update("jax_enable_compilation_cache", usual)
    result |= {"environment": environment}
    print(json.dumps(evidence.rounded(result, 3), indent=1))
    evidence.write("serve", result, results)
    return result


def ten_prompts(model: Any, theirs: Any, llamacpp: str, count: int, new_tokens: int) -> dict[str, Any]:
    """Seconds for each prompt, of the three in turn, in two passes; and how many programs the first compiled."""
    import jax

    from jaxgpt.inference.generate import generate

    rng = np.random.default_rng(0)
    room = model.config.context_length - new_tokens
    lengths = np.unique(np.linspace(3, min(room, 93), count).astype(int))
    texts = [rng.integers(0, model.config.vocab_size - 1, (1, length), dtype=np.int32) for length in lengths]
    ask = asker(llamacpp, new_tokens, LLAMACPP)
    compiled: list[str] = []

    def listen(event: str, seconds: float, **details: Any) -> None:  # noqa: ARG001
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    passes = []
    for _ in range(2):
        compiled.clear()
        spent, alike = {"ours": 0.0, "transformers": 0.0, "llama.cpp": 0.0}, []
        for text in texts:
            seconds, tokens = timed(lambda: generate(model, text, new_tokens, temperature=0))  # noqa: B023
            other_seconds, other = timed(lambda: transformers_generate(theirs, text, new_tokens))  # noqa: B023
            spent["ours"] += seconds
            spent["transformers"] += other_seconds
            spent["llama.cpp"] += timed(lambda: ask(text))[0]  # noqa: B023
            alike.append(float((tokens[:, -new_tokens:] == other[:, -new_tokens:]).mean()))
        passes.append({**spent, "programs": len(compiled), "alike": min(alike)})
    jax.monitoring.unregister_event_duration_listener(listen)
    return {"lengths": lengths.tolist(), "first_pass": passes[0], "second_pass": passes[1]}


def server(model: Any, theirs: Any, llamacpp: str, new_tokens: int) -> dict[str, float]:
    """Tokens per second of eight clients: one after another, and at once."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, model.config.vocab_size - 1, (1, 8), dtype=np.int32) for _ in range(CLIENTS)]
    address, end = serve(model)
    ask, ask_llamacpp = asker(address, new_tokens), asker(llamacpp, new_tokens, LLAMACPP)

    def at_once(ask: Callable[[np.ndarray], None]) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, prompts))

    def in_turn(ask: Callable[[np.ndarray], object]) -> None:
        for prompt in prompts:
            ask(prompt)

    def ask_transformers(prompt: np.ndarray) -> np.ndarray:
        return transformers_generate(theirs, prompt, new_tokens)

    try:
        for first in (lambda: ask(prompts[0]), lambda: at_once(ask), lambda: at_once(ask_llamacpp)) * 2:
            first()  # compiles
        ways: dict[str, Callable[[], object]] = {
            "one_after_another": lambda: in_turn(ask),
            "at_once": lambda: at_once(ask),
            "llama.cpp_one_after_another": lambda: in_turn(ask_llamacpp),
            "llama.cpp_at_once": lambda: at_once(ask_llamacpp),
            "transformers_one_after_another": lambda: in_turn(ask_transformers),
            "transformers_one_batch": lambda: ask_transformers(np.concatenate(prompts)),
        }
        return {name: CLIENTS * new_tokens / timed(way)[0] for name, way in ways.items()}
    finally:
        end()


def serve(model: Any) -> tuple[str, Callable[[], None]]:
    """Start the server in a thread; its address, and what ends it."""
    import uvicorn

    from jaxgpt.data import GPT2Tokenizer
    from jaxgpt.serving.app import Service
    from jaxgpt.serving.engine import Engine

    engine = Engine(model)  # no stop token: every client gets as many tokens as it asks for
    config = uvicorn.Config(Service(engine, model, GPT2Tokenizer(), "model", None).app(), port=0, log_level="error")
    program, socket = uvicorn.Server(config), config.bind_socket()
    socket.listen()
    thread = threading.Thread(target=program.run, kwargs={"sockets": [socket]})
    thread.start()

    def end() -> None:
        program.should_exit = True
        thread.join()
        socket.close()

    return f"http://127.0.0.1:{socket.getsockname()[1]}", end


def asker(address: str, new_tokens: int, besides: dict[str, Any] | None = None) -> Callable[[np.ndarray], None]:
    """A client that asks for the greedy continuation of a prompt."""
    from urllib.request import Request, urlopen

    def ask(prompt: np.ndarray) -> None:
        body = {"prompt": prompt[0].tolist(), "max_tokens": new_tokens, "temperature": 0, **(besides or {})}
        request = Request(f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=3600) as answer:
            found = json.load(answer)["usage"]["completion_tokens"]
        assert found == new_tokens, found

    return ask


def transformers_generate(theirs: Any, text: np.ndarray, new_tokens: int) -> np.ndarray:
    """Greedy, with the cache that it takes by itself; nothing is compiled."""
    import torch

    given = torch.from_numpy(text.astype(np.int64))
    with torch.inference_mode():
        tokens = theirs.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return tokens.numpy()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds that some work takes, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    tyro.cli(main)
