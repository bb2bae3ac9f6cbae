"""Tokens to text while they come: whole characters, up to the first of some stop texts."""

from collections.abc import Iterable, Sequence

from jaxgpt.data.tokenizer import Tokenizer

REPLACEMENT = "\ufffd"
CONTEXT = 8
"""How many tokens are decoded again with the new ones: spaces and bytes depend on their neighbours."""


class TextStream:
    """The text of a continuation, in parts that never change again.

    A character whose bytes are spread over tokens is yielded whole, and what may become a stop text once it cannot.
    `stopped` says whether one was met; the text ends before it.

    Example:
        >>> from jaxgpt.data import CharTokenizer
        >>> stream = TextStream(CharTokenizer("abc"), stop=["cb"])
        >>> [stream.add([i]) for i in (0, 2, 0, 2, 1, 0)], stream.end(), stream.stopped
        (['a', '', 'ca', '', '', ''], '', True)
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._ids = [int(token) for token in prompt[-CONTEXT:]]
        self._told = len(tokenizer.decode(self._ids))
        self._waiting = ""

    def add(self, tokens: Iterable[int]) -> str:
        """The text that is certain after some tokens more."""
        self._ids += [int(token) for token in tokens]
        text = self._tokenizer.decode(self._ids)
        whole = text.rstrip(REPLACEMENT)
        self._waiting += whole[self._told :]
        self._told = max(self._told, len(whole))
        if len(whole) == len(text) and len(self._ids) > 2 * CONTEXT:
            self._ids = self._ids[-CONTEXT:]
            self._told = len(self._tokenizer.decode(self._ids))
        return self._release(final=False)

    def end(self) -> str:
        """The rest, where no more tokens come."""
        self._waiting += self._tokenizer.decode(self._ids)[self._told :]
        return self._release(final=True)

    def _release(self, *, final: bool) -> str:
        if self.stopped:
            return ""
        found = [at for stop in self._stop if (at := self._waiting.find(stop)) >= 0]
        self.stopped = bool(found)
        keep = min(found) if found else len(self._waiting) - (0 if final else self._unsure())
        text, self._waiting = self._waiting[:keep], self._waiting[keep:]
        return text

    def _unsure(self) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        lengths = (size for stop in self._stop for size in range(1, len(stop)) if self._waiting.endswith(stop[:size]))
        return max(lengths, default=0)
