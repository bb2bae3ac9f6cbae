"""Continuous batching: requests that are waiting are decoded together, and join and leave between pieces."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from jaxgpt.config import Weights
from jaxgpt.inference import buckets
from jaxgpt.inference.programs import Rules, State, decode, prefill
from jaxgpt.inference.sampling import Drawn
from jaxgpt.inference.settings import Settings, kind_of, make_rules
from jaxgpt.inference.weights import cast_once
from jaxgpt.model.gpt import GPT
from jaxgpt.serving.rows import Shapes, put, shapes_of, take

PIECE = 8
"""Tokens between two chances to join. Fewer: quicker to join, more time between programs."""


READ_TOGETHER = 512
"""Tokens of prompts, padding included, that are read at once: eight of 64 take 0.6 of the time of one after another,
and beyond this products gain nothing from more rows."""


class QueueFullError(Exception):
    """So many requests are waiting that another would wait too long."""


@dataclass(frozen=True)
class Piece:
    """Some new tokens of one request."""

    tokens: list[int]
    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    finish: str | None
    """stop: a stop token was drawn (it is left out); length: all are drawn; shutdown; None: more will come."""


@dataclass(eq=False)
class Request:
    """A text to continue. `emit` is called with each piece, by the engine's thread."""

    tokens: np.ndarray
    max_tokens: int
    settings: Settings
    seed: tuple[int, int, int]
    emit: Callable[[Piece], object]
    logprobs: bool = False
    cancelled: bool = field(default=False, init=False)
    drawn: int = field(default=0, init=False)

    @property
    def length(self) -> int:
        """How many tokens its text will have at most."""
        return len(self.tokens) + self.max_tokens


class Engine:
    """Decodes requests in a thread of its own."""

    def __init__(
        self,
        model: GPT,
        stop_tokens: Sequence[int] = (),
        num_tokens: int | None = None,
        *,
        max_rows: int = 8,
        max_waiting: int = 64,
        weights: Weights | None = None,
    ) -> None:
        self.model = cast_once(model, weights)
        self.stops, self.num_tokens = set(stop_tokens), num_tokens or model.config.vocab_size
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.rows: list[Request | None] = []
        self._state: State | None = None
        self._capacity = 0
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="jaxgpt-engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue some requests, all or none. Raises QueueFullError."""
        with self._changed:
            if self._closing or len(self._waiting) + len(requests) > self.max_waiting:
                raise QueueFullError
            self._waiting.extend(requests)
            self._changed.notify()

    @property
    def active(self) -> int:
        """How many requests hold a row."""
        return sum(request is not None for request in self.rows)

    @property
    def waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._waiting)

    def close(self) -> None:
        """End what is running after its piece; what is left gets an error that the server ends."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            while self._take_turn():
                pass
        finally:  # also where a defect ends this thread: nobody may wait for ever
            self._closing = True
            for request in (*self.rows, *self._waiting):
                if request is not None:
                    request.emit(Piece([], [], [], "shutdown"))

    def _take_turn(self) -> bool:
        """Let requests join, and decode a piece; whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._waiting or self.active)
        for _ in range(2):  # those of a burst arrive while the first is read, and go on together with it
            self._join(self._leave_queue())
        if self._closing:
            return False
        if self.active:
            if buckets.rows(self.active) < len(self.rows):
                self._arrange()
            self._piece()
        return True

    def _leave_queue(self) -> list[Request]:
        """The requests that have waited longest, as many as there is room for."""
        with self._changed:
            if self._closing:
                return []
            self._waiting = deque(request for request in self._waiting if not request.cancelled)
            room = self.max_rows - self._clear_cancelled()
            return [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]

    def _clear_cancelled(self) -> int:
        """Free the rows of requests that nobody waits for; how many are left."""
        self.rows = [None if request is None or request.cancelled else request for request in self.rows]
        return self.active

    def _join(self, requests: Sequence[Request]) -> None:
        """Read prompts, those of one size together, tell their first tokens, and put them into rows."""
        sized: dict[int, list[Request]] = {}
        for request in requests:
            sized.setdefault(buckets.prompt_size(self.model.config, len(request.tokens)), []).append(request)
        for size, group in sized.items():
            most = max(1, READ_TOGETHER // size)
            for start in range(0, len(group), most):
                self._read(group[start : start + most], size)

    def _read(self, group: Sequence[Request], size: int) -> None:
        """Read prompts of at most `size` tokens by one program."""
        count = buckets.rows(len(group))
        capacity = buckets.capacity(self.model.config, size, max(request.length for request in group))
        tokens, lengths = np.zeros((count, size), np.int32), np.ones(count, np.int32)
        for row, request in enumerate(group):
            tokens[row, : len(request.tokens)], lengths[row] = request.tokens, len(request.tokens)
        drawn, state = prefill(
            self.model,
            tokens,
            lengths,
            np.zeros(count, np.int32),
            np.zeros(count, np.int32),
            np.zeros(count, bool),
            self._rules([*group, *[None] * (count - len(group))]),
            capacity=capacity,
            kind=kind_of([request.settings for request in group]),
            logprobs=any(request.logprobs for request in group),
        )
        drawn, state = jax.tree.map(np.asarray, drawn), state._replace(seen=None)
        new = {
            row: request
            for row, request in enumerate(group)
            if self._tell(request, jax.tree.map(lambda leaf, at=row: leaf[at, None], drawn))
        }
        if new and not self.active:
            self._state, self._capacity, self.rows = state, capacity, [new.get(row) for row in range(count)]
        elif new:
            self._arrange(list(new.values()))
            assert self._state is not None
            for row, request in new.items():
                self._state = put(self._state, np.int32(self.rows.index(request)), state, np.int32(row))

    def _arrange(self, new: Sequence[Request] = ()) -> None:
        """As few rows and as short caches as all need, with a row for each new request; one at least goes on."""
        kept = [(row, request) for row, request in enumerate(self.rows) if request is not None]
        all_ = [*(request for _, request in kept), *new]
        config, count = self.model.config, buckets.rows(len(all_))
        prompt = max(buckets.prompt_size(config, len(request.tokens)) for request in all_)
        capacity = buckets.capacity(config, prompt, max(request.length for request in all_))
        if new and len(self.rows) == count and self._capacity == capacity:
            waiting = iter(new)
            self.rows = [next(waiting, None) if request is None else request for request in self.rows]
            return
        assert self._state is not None
        index = np.array([row for row, _ in kept] + [0] * (count - len(kept)), np.int32)
        self._state = take(self._state, index, Shapes(shapes_of(self.model, count, capacity)))
        self._capacity, self.rows = capacity, [*all_, *[None] * (count - len(all_))]

    def _piece(self) -> None:
        """Decode some tokens of every row."""
        going = [request for request in self.rows if request is not None]
        assert self._state is not None
        count = min(PIECE, max(request.max_tokens - request.drawn for request in going))
        idle = np.array([request is None for request in self.rows])
        drawn, found, self._state = decode(
            self.model,
            self._state._replace(stopped=idle),
            self._rules(self.rows),
            np.int32(count),
            room=PIECE,
            kind=kind_of([request.settings for request in going]),
            logprobs=any(request.logprobs for request in going),
        )
        end = min(count, int(found))
        drawn = jax.tree.map(lambda leaf: np.asarray(leaf)[:, :end], drawn)
        for row, request in enumerate(self.rows):
            if request is not None and not self._tell(request, jax.tree.map(lambda leaf, at=row: leaf[at], drawn)):
                self.rows[row] = None

    def _tell(self, request: Request, drawn: Drawn) -> bool:
        """Emit the new tokens of a request; whether it goes on."""
        tokens = drawn.token.tolist()[: request.max_tokens - request.drawn]
        request.drawn += len(tokens)
        finish = "length" if request.drawn == request.max_tokens else None
        ends = [at for at, token in enumerate(tokens) if token in self.stops]
        if ends:
            tokens, finish = tokens[: ends[0]], "stop"
        logprobs: list[float] = []
        top: list[list[tuple[int, float]]] = []
        if request.logprobs and drawn.logprob is not None:
            assert drawn.top_tokens is not None
            assert drawn.top_logprobs is not None
            logprobs = drawn.logprob.tolist()[: len(tokens)]
            pairs = zip(drawn.top_tokens.tolist(), drawn.top_logprobs.tolist(), strict=True)
            top = [list(zip(*pair, strict=True)) for pair in pairs][: len(tokens)]
        if not request.cancelled:
            request.emit(Piece(tokens, logprobs, top, finish))
        return finish is None and not request.cancelled

    def _rules(self, rows: Sequence[Request | None]) -> Rules:
        settings = [Settings(temperature=0) if request is None else request.settings for request in rows]
        seeds = np.array([(0, 0, 0) if request is None else request.seed for request in rows], np.uint32)
        return make_rules(len(rows), settings, seeds, (), self.num_tokens)
