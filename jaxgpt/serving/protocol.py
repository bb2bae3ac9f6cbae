"""OpenAI's completions: what a client sends, checked, and what it gets back."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgpt.config import GPTConfig
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.inference.settings import Settings

MOST_PROMPTS = 64
MOST_CHOICES = 16
MOST_STOPS = 8
MOST_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16
"""OpenAI's."""
FIELDS = {"prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "logprobs", "echo"}
FIELDS |= {"stream", "model", "user", "stream_options"}


@dataclass(frozen=True)
class Completion:
    """A request for completions, checked."""

    prompts: list[np.ndarray]
    max_tokens: int
    settings: Settings
    seed: int
    stop: tuple[str, ...]
    choices: int
    """Of each prompt."""
    logprobs: int | None
    echo: bool
    stream: bool


def parse(body: Any, tokenizer: Tokenizer, config: GPTConfig) -> Completion:
    """Raises UserError where a field is not what it has to be, or the model cannot do it."""
    if not isinstance(body, dict):
        raise UserError("the body has to be a JSON object")
    _refuse_others(body)
    logprobs = _whole(body, "logprobs", None, 0, MOST_LOGPROBS)
    found = Completion(
        prompts=[_ids(prompt, tokenizer, config) for prompt in _prompts(body.get("prompt"))],
        max_tokens=_whole(body, "max_tokens", DEFAULT_MAX_TOKENS, 0, 10**6) or 0,
        settings=Settings(
            temperature=_number(body, "temperature", 1.0),
            top_p=_number(body, "top_p", 1.0),
            top_k=_whole(body, "top_k", None, -1, 10**9) if body.get("top_k") not in (0, -1) else None,
            min_p=_number(body, "min_p", 0.0),
        ),
        seed=seed if (seed := _whole(body, "seed", None, -(2**63), 2**63 - 1)) is not None else secrets.randbits(63),
        stop=_stops(body.get("stop")),
        choices=_whole(body, "n", 1, 1, MOST_CHOICES) or 1,
        logprobs=logprobs,
        echo=_flag(body, "echo"),
        stream=_flag(body, "stream"),
    )
    longest = max(len(prompt) for prompt in found.prompts)
    if config.max_length is not None and longest + found.max_tokens > config.max_length:
        raise UserError(
            f"the model reads {config.max_length} tokens, and the prompt has {longest} with max_tokens="
            f"{found.max_tokens}: shorten the prompt, or ask for fewer"
        )
    if found.max_tokens == 0 and not found.echo:
        raise UserError("max_tokens=0 asks for nothing; use at least 1, or echo with logprobs")
    return found


def _refuse_others(body: dict[str, Any]) -> None:
    neutral: dict[str, tuple[Any, ...]] = {
        "suffix": (None, ""),
        "presence_penalty": (None, 0),
        "frequency_penalty": (None, 0),
        "logit_bias": (None, {}),
        "best_of": (None, 1, body.get("n", 1)),
    }
    if unknown := sorted(body.keys() - FIELDS - neutral.keys()):
        raise UserError(f"{', '.join(unknown)} is not known here; leave it out")
    for name, allowed in neutral.items():
        if name in body and body[name] not in allowed:
            raise UserError(f"{name}={body[name]!r} is not supported here; leave it out")


def _prompts(prompt: Any) -> list[str | list[int]]:
    """One prompt or several, each a text or a list of token ids."""
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if _is_ids(prompt):
            return [prompt]
        if len(prompt) <= MOST_PROMPTS and all(isinstance(one, str) or _is_ids(one) for one in prompt):
            return prompt
    raise UserError(f"prompt has to be a text, a list of token ids, or a list of at most {MOST_PROMPTS} of these")


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list) and all(type(token) is int for token in prompt)


def _ids(prompt: str | list[int], tokenizer: Tokenizer, config: GPTConfig) -> np.ndarray:
    ids = tokenizer.encode(prompt).tolist() if isinstance(prompt, str) else prompt
    if not ids:
        if tokenizer.end_of_text is None:
            raise UserError("prompt is empty, and the tokenizer has no end of text; give some text")
        ids = [tokenizer.end_of_text]
    if wrong := [i for i in ids if not 0 <= i < config.vocab_size]:
        raise UserError(f"token {wrong[0]} is not in the vocabulary of {config.vocab_size}")
    return np.array(ids, np.int32)


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or any(not isinstance(one, str) for one in stops):
        raise UserError(f"stop has to be a text, or a list of at most {MOST_STOPS}")
    return tuple(one for one in stops if one)


def _whole(body: dict[str, Any], name: str, default: int | None, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None or value is False:
        return default
    if type(value) is not int or not least <= value <= most:
        raise UserError(f"{name}={value!r} has to be a whole number from {least} to {most}")
    return value


def _number(body: dict[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (int, float):
        raise UserError(f"{name}={value!r} has to be a number")
    return float(value)


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise UserError(f"{name}={value!r} has to be true or false")
    return bool(value)


class Envelope:
    """What all parts of one answer have in common."""

    def __init__(self, model: str) -> None:
        self.head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        self.head["model"] = model

    def of(self, choices: Sequence[dict[str, Any]], usage: dict[str, int] | None = None) -> dict[str, Any]:
        """The object of some choices."""
        return {**self.head, "choices": list(choices), **({} if usage is None else {"usage": usage})}


def choice(index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None) -> dict[str, Any]:
    """One choice, or a part of it."""
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens read and made."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def failure(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """OpenAI's form of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Logprobs:
    """OpenAI's logprobs of a growing text; those with ids are ours, exact where texts are not."""

    def __init__(self, tokenizer: Tokenizer, alternatives: int, offset: int = 0) -> None:
        self._tokenizer, self._alternatives, self._offset = tokenizer, alternatives, offset

    def of(
        self, tokens: Sequence[int], logprobs: Sequence[float | None], top: Sequence[Sequence[tuple[int, float]] | None]
    ) -> dict[str, Any]:
        """The fields for some tokens more."""
        texts = [self.text(token) for token in tokens]
        offsets = []
        for text in texts:
            offsets.append(self._offset)
            self._offset += len(text)
        kept = [None if one is None else [p for p in one if self._known(p[0])][: self._alternatives] for one in top]
        return {
            "tokens": texts,
            "token_logprobs": list(logprobs),
            "top_logprobs": [None if one is None else {self.text(i): p for i, p in reversed(one)} for one in kept],
            "text_offset": offsets,
            "token_ids": list(tokens),
            "top_token_ids": [None if one is None else [i for i, _ in one] for one in kept],
            "top_token_logprobs": [None if one is None else [p for _, p in one] for one in kept],
            "top_texts": [None if one is None else [self.text(i) for i, _ in one] for one in kept],
        }

    def text(self, token: int) -> str:
        """A token's text; of one that the tokenizer does not have, nothing."""
        return self._tokenizer.decode([token]) if self._known(token) else ""

    def _known(self, token: int) -> bool:
        return token < self._tokenizer.vocab_size
