"""One continuation on its way from the engine to a client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.inference.text_stream import TextStream
from jaxgpt.serving import protocol
from jaxgpt.serving.engine import Piece, Request
from jaxgpt.serving.protocol import Completion, Logprobs


class ShutdownError(Exception):
    """The server ends before the text does."""


class Choice:
    """One continuation on its way to a client: tokens come from the engine's thread, text goes out."""

    def __init__(self, index: int, wanted: Completion, prompt: np.ndarray, number: int, tokenizer: Tokenizer) -> None:
        self.index, self.tokens = index, 0
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self.logprobs = None if wanted.logprobs is None else Logprobs(tokenizer, wanted.logprobs)
        self._stream = TextStream(tokenizer, prompt.tolist(), wanted.stop)
        loop, words = asyncio.get_running_loop(), (wanted.seed & 0xFFFFFFFF, (wanted.seed >> 32) & 0xFFFFFFFF)

        def emit(piece: Piece) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self.request = Request(
            prompt, wanted.max_tokens, wanted.settings, (*words, number), emit, logprobs=wanted.logprobs is not None
        )

    async def parts(self) -> AsyncIterator[dict[str, Any]]:
        """The choice in parts as they are made; the last has a finish_reason."""
        finish = None
        while finish is None:
            piece = await self._pieces.get()
            if piece.finish == "shutdown":
                raise ShutdownError
            text, kept = "", 0
            for token in piece.tokens:
                text += self._stream.add([token])
                kept += 1
                if self._stream.stopped:
                    break
            self.tokens += kept
            finish = "stop" if self._stream.stopped else piece.finish
            if finish is not None:
                text += self._stream.end()
                self.request.cancelled = True
            told = None
            if self.logprobs is not None:
                told = self.logprobs.of(piece.tokens[:kept], piece.logprobs[:kept], piece.top[:kept])
            if text or finish or (told and told["tokens"]):
                yield protocol.choice(self.index, text, told, finish)
