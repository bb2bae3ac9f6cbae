"""The HTTP server: /v1/completions and /v1/models as OpenAI's clients expect them, and a page at /."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.serving import protocol
from jaxgpt.serving.choice import Choice, ShutdownError
from jaxgpt.serving.engine import Engine, QueueFullError
from jaxgpt.serving.protocol import Completion, Envelope, failure
from jaxgpt.serving.scoring import score

LONGEST_BODY = 4 << 20
"""Bytes of a request."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Handler = Callable[[Request], Awaitable[Response]]


class Service:
    """One model behind HTTP."""

    def __init__(self, engine: Engine, model: GPT, tokenizer: Tokenizer, name: str, api_key: str | None) -> None:
        self.engine, self.model, self.tokenizer, self.name, self.api_key = engine, model, tokenizer, name, api_key

    def app(self, on_startup: Callable[[], object] = lambda: None) -> Starlette:
        """The ASGI application, which calls `on_startup` once. It closes the engine when it ends."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:  # noqa: ARG001
            on_startup()
            yield
            self.engine.close()

        return Starlette(
            routes=[
                Route("/", self.page),
                Route("/health", self.health),
                Route("/v1/models", self.guarded(self.models)),
                Route("/v1/models/{name:path}", self.guarded(self.models)),
                Route("/v1/completions", self.guarded(self.completions), methods=["POST"]),
                Route("/v1/tokenize", self.guarded(self.tokenize), methods=["POST"]),
            ],
            lifespan=lifespan,
        )

    def guarded(self, handler: Handler) -> Handler:
        """The handler, for those who have the key; what it raises becomes an answer."""

        async def answer(request: Request) -> Response:
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if self.api_key is not None and not secrets.compare_digest(sent.encode(), self.api_key.encode()):
                return JSONResponse(failure("the API key is missing or wrong", code="invalid_api_key"), 401)
            try:
                return await handler(request)
            except UserError as error:
                return JSONResponse(failure(str(error)), 400)
            except QueueFullError:
                message = f"{self.engine.waiting} requests are waiting; try again later"
                return JSONResponse(failure(message, "rate_limit_error", "queue_full"), 429, {"Retry-After": "5"})
            except ShutdownError:
                return JSONResponse(failure("the server is ending", "server_error"), 503)
            except ClientDisconnect:
                return Response(status_code=499)

        return answer

    async def page(self, request: Request) -> Response:  # noqa: ARG002
        return HTMLResponse((files("jaxgpt.serving") / "page.html").read_text(encoding="utf-8"), headers=HEADERS)

    async def health(self, request: Request) -> Response:  # noqa: ARG002
        return JSONResponse({"status": "ok", "active": self.engine.active, "waiting": self.engine.waiting})

    async def models(self, request: Request) -> Response:
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "jaxgpt"}
        model["max_model_len"] = self.model.config.max_length
        asked = request.path_params.get("name")
        if asked is None:
            return JSONResponse({"object": "list", "data": [model]})
        return JSONResponse(model) if asked == self.name else self._no_model(asked)

    async def tokenize(self, request: Request) -> Response:
        body = await _json(request)
        text = body.get("text") if isinstance(body, dict) else None
        if not isinstance(text, str):
            raise UserError("text has to be a text")
        return JSONResponse({"token_ids": self.tokenizer.encode(text).tolist()})

    async def completions(self, request: Request) -> Response:
        body = await _json(request)
        asked = body.get("model") if isinstance(body, dict) else None
        if asked not in (None, self.name):
            return self._no_model(asked)
        wanted = protocol.parse(body, self.tokenizer, self.model.config)
        pairs = [(prompt, number) for prompt in wanted.prompts for number in range(wanted.choices)]
        choices = [Choice(i, wanted, prompt, number, self.tokenizer) for i, (prompt, number) in enumerate(pairs)]
        if wanted.max_tokens:
            self.engine.submit([choice.request for choice in choices])
        if wanted.stream:
            return StreamingResponse(self._events(wanted, choices), media_type="text/event-stream", headers=NO_STORE)
        try:
            return JSONResponse(await _unless_gone(request, self._whole(wanted, choices)))
        finally:
            _cancel(choices)

    async def _whole(self, wanted: Completion, choices: list[Choice]) -> dict[str, Any]:
        """The answer in one piece."""

        async def collect(choice: Choice) -> dict[str, Any]:
            parts = [await self._echo(wanted, choice)] if wanted.echo else []
            if wanted.max_tokens:
                parts += [part async for part in choice.parts()]
            return _joined(parts)

        found = await asyncio.gather(*(collect(choice) for choice in choices))
        made = sum(choice.tokens for choice in choices)
        return Envelope(self.name).of(found, protocol.usage(sum(len(prompt) for prompt in wanted.prompts), made))

    async def _events(self, wanted: Completion, choices: list[Choice]) -> AsyncIterator[str]:
        """The answer as server-sent events, the choices' parts as they come."""
        envelope, parts = Envelope(self.name), asyncio.Queue[dict[str, Any] | None]()

        async def forward(choice: Choice) -> None:
            try:
                if wanted.echo:
                    parts.put_nowait(await self._echo(wanted, choice))
                if wanted.max_tokens:
                    async for part in choice.parts():
                        parts.put_nowait(part)
            finally:
                parts.put_nowait(None)

        tasks = [asyncio.create_task(forward(choice)) for choice in choices]
        try:
            going = len(tasks)
            while going:
                part = await parts.get()
                if part is None:
                    going -= 1
                else:
                    yield f"data: {json.dumps(envelope.of([part]))}\n\n"
            for error in (task.exception() for task in tasks if task.done()):
                if error is not None:
                    yield f"data: {json.dumps(failure('the server is ending', 'server_error'))}\n\n"
                    return
            yield "data: [DONE]\n\n"
        finally:  # also where the client has gone
            _cancel(choices)
            for task in tasks:
                task.cancel()

    async def _echo(self, wanted: Completion, choice: Choice) -> dict[str, Any]:
        """The prompt itself, with its log probabilities if asked for."""
        tokens = choice.request.tokens
        known = [token for token in tokens.tolist() if token < self.tokenizer.vocab_size]
        text = self.tokenizer.decode(known)
        told = None
        if choice.logprobs is not None:
            logprobs, top = await asyncio.to_thread(score, self.engine.model, tokens, self.engine.num_tokens)
            told = choice.logprobs.of(tokens.tolist(), [None, *logprobs], [None, *top])
        return protocol.choice(choice.index, text, told, None if wanted.max_tokens else "length")

    def _no_model(self, asked: object) -> Response:
        message = f"there is no model {asked!r} here; there is {self.name!r}"
        return JSONResponse(failure(message, code="model_not_found"), 404)


NO_STORE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def _json(request: Request) -> Any:
    """The body. Raises UserError where it is too long, or not JSON."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise UserError(f"the body is longer than {LONGEST_BODY} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {error}") from None


async def _unless_gone(request: Request, work: Any) -> Any:
    """The result of some work, which is given up when the client goes. Raises ClientDisconnect then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()


def _cancel(choices: list[Choice]) -> None:
    for choice in choices:
        choice.request.cancelled = True


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The parts of a choice as one."""
    told = [part["logprobs"] for part in parts if part["logprobs"] is not None]
    logprobs = {name: [one for part in told for one in part[name]] for name in told[0]} if told else None
    text = "".join(part["text"] for part in parts)
    return protocol.choice(parts[0]["index"], text, logprobs, parts[-1]["finish_reason"])
