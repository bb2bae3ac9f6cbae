"""`jaxgpt generate`."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from jaxgpt.commands.sources import read_text
from jaxgpt.config import Backend, GPTConfig, Weights
from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jaxgpt.data import Tokenizer
    from jaxgpt.inference.sampling import Drawn
    from jaxgpt.inference.settings import Settings
    from jaxgpt.inference.texts import Texts
    from jaxgpt.model.gpt import GPT

USUAL_LENGTH = 128
LONGEST_PROMPT = 2**27
"""Characters that are read from standard input, which may be a device without an end."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Continue a text."""

    source: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder or hub id, or a weights file."""
    prompt: str = "\n"
    """The text to continue; @FILE: the text of a file; -: standard input; "": the end-of-text token."""
    interactive: bool = False
    """Continue line after line. /temperature 0.7 and the like change settings, Ctrl-C stops a text, /quit ends."""
    max_new_tokens: int | None = None
    """How many tokens to add at most; <|endoftext|> ends a sample. None: 128, or what the context has room for."""
    temperature: float = 0.8
    """0: always the likeliest token. 1: as the model says."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together have this probability."""
    min_p: float | None = None
    """Draw from the tokens that are at least so likely, relative to the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text has already become less likely."""
    seed: int = 0
    """The same seed gives the same text."""
    num_samples: int = 1
    """How many continuations."""
    stop: tuple[str, ...] = ()
    """End a sample before any of these texts."""
    special: bool = False
    """Special tokens in the prompt, such as <|endoftext|>, are tokens and not text."""
    slide: bool = True
    """Where the text has reached the context length, go on from its last half. Without it, that is refused."""
    json: bool = False
    """A JSON line for each sample, with the log probability of each token and of the five likeliest."""
    step: str = "latest"
    """Which checkpoint of a run: latest, best, or a step."""
    tokenizer: str | None = None
    """The source of another tokenizer: gpt2, a folder, a run, a hub id. None: the source's own."""
    attention: Backend | None = None
    """Attention backend by name, such as auto where the model's own cannot run here. None: the model's own."""
    weights: Weights | None = None
    """Keep the matrices in bfloat16, or in int8 with a scale for each output. None: in the model's dtype."""
    fused: bool = False
    """Decode by fewer and larger kernels, on an NVIDIA GPU. Compiled and tested, they have not run on one yet."""

    @property
    def settings(self) -> "Settings":
        """How tokens are drawn. Raises UserError where a setting is out of range."""
        from jaxgpt.inference.settings import Settings

        return Settings(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


def main(arguments: list[str]) -> int:
    """Print samples; returns the exit code."""
    chosen = tyro.cli(Arguments, prog="jaxgpt generate", args=arguments)
    if chosen.num_samples < 1:
        raise UserError(f"--num-samples {chosen.num_samples} asks for nothing; use at least 1")
    prompt = "" if chosen.interactive else prompt_text(chosen.prompt)
    _ = chosen.settings  # refuses before anything is loaded
    model, tokenizer = open_source(chosen.source, chosen.tokenizer, chosen.step, chosen.attention)
    write_safely()
    if chosen.interactive:
        from jaxgpt.commands.interactive import converse

        return converse(chosen, model, tokenizer)
    ids = prompt_ids(tokenizer, prompt, special=chosen.special)
    if chosen.json:
        write_json(chosen, model, tokenizer, ids)
        return 0
    stopped_by_hand = write_samples(chosen, model, tokenizer, ids, echo=True)
    if stopped_by_hand:
        raise KeyboardInterrupt
    return 0


def open_source(source: str, tokenizer: str | None, step: str, attention: Backend | None) -> tuple["GPT", "Tokenizer"]:
    """The model and the tokenizer that a command names."""
    from jaxgpt.data.tokenizer import GPT2Tokenizer
    from jaxgpt.loading import check_vocabulary, load, load_tokenizer

    found = GPT2Tokenizer() if tokenizer == GPT2Tokenizer.name else load_tokenizer(tokenizer or source)
    changes: dict[str, Any] = {} if attention is None else {"attention": attention}
    if step != "latest":
        if step != "best" and not step.isdecimal():
            raise UserError(f"--step {step} is not latest, best or a number")
        changes["step"] = step if step == "best" else int(step)
    model = load(source, **changes)
    check_vocabulary(found, model.config, source)
    return model, found


def write_safely() -> None:
    """Characters that standard output has no code for are written as question marks."""
    with contextlib.suppress(AttributeError):  # it may be something else, in a test or a notebook
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]


def prompt_text(prompt: str) -> str:
    """The text that --prompt stands for."""
    if prompt == "-":
        try:
            text = sys.stdin.read(LONGEST_PROMPT + 1)
        except UnicodeDecodeError:
            raise UserError(f"--prompt -: standard input is not text in {sys.stdin.encoding}; convert it") from None
        if len(text) > LONGEST_PROMPT:
            raise UserError(f"--prompt -: standard input has more than {LONGEST_PROMPT:,} characters: give less")
        return text
    if not prompt.startswith("@"):
        return prompt
    return read_text(f"--prompt {prompt}", Path(prompt[1:]))


def prompt_ids(tokenizer: "Tokenizer", prompt: str, *, special: bool) -> "np.ndarray":
    """The tokens of a prompt; of an empty one, the end of a text, after which models begin a new one."""
    ids = tokenizer.encode(prompt, special=special)
    if len(ids) == 0:
        if tokenizer.end_of_text is None:
            raise UserError(f"the prompt is empty, and the {tokenizer.name} tokenizer has no end of text: give a text")
        return np.array([tokenizer.end_of_text], ids.dtype)
    return ids


def begin_samples(chosen: Arguments, model: "GPT", tokenizer: "Tokenizer", ids: "np.ndarray") -> "Texts":
    """Samples that are ready to grow."""
    from jaxgpt.inference.generate import begin
    from jaxgpt.inference.texts import check_prompts

    limit, count = model.config.max_length, chosen.max_new_tokens
    if count is None:
        count = USUAL_LENGTH if limit is None else max(1, min(USUAL_LENGTH, limit - len(ids)))
    check_prompts(model.config, [ids], count, slide=chosen.slide, fused=chosen.fused)
    check_samples_fit(model.config, len(ids) + count, chosen.num_samples)
    if limit is not None and len(ids) + count > limit:
        sys.stderr.write(f"past {limit} tokens the text goes on from the last {limit // 2} (--no-slide refuses that)\n")
    return begin(
        model,
        [ids] * chosen.num_samples,
        count,
        chosen.settings,
        chosen.seed,
        tokenizer.stop_tokens,
        tokenizer.vocab_size,
        fused=chosen.fused,
        weights=chosen.weights,
    )


def check_samples_fit(config: GPTConfig, length: int, samples: int) -> None:
    """Raise UserError where the keys and values of so many samples are more than the memory."""
    from jaxgpt.evaluation.memory import memory_of_a_device
    from jaxgpt.model.cache import cache_lengths

    slots = sum(cache_lengths(config, min(length, config.max_length or length)))
    of_one, limit = 4 * slots * config.kv_heads * config.head_dim, memory_of_a_device()  # two numbers of two bytes
    if samples * of_one > limit:
        raise UserError(
            f"--num-samples {samples} needs at least {samples * of_one / 1e9:,.0f} GB, and there are "
            f"{limit / 1e9:,.0f}: use {max(1, limit // 4 // of_one):,} or fewer at once, with another --seed each time"
        )


class Sample:
    """One continuation: its tokens up to where it ends, and its text."""

    def __init__(self, tokenizer: "Tokenizer", prompt: "np.ndarray", stop: tuple[str, ...]) -> None:
        from jaxgpt.inference.text_stream import TextStream

        self.tokens: list[int] = []
        self.text, self.ended = "", False
        self._stops = set(tokenizer.stop_tokens)
        self._stream = TextStream(tokenizer, prompt.tolist(), stop)

    def add(self, tokens: list[int]) -> str:
        """What some tokens more add to the text."""
        new = ""
        for token in tokens:
            self.ended = self.ended or token in self._stops
            if self.ended:
                break
            self.tokens.append(token)
            new += self._stream.add([token])
            self.ended = self._stream.stopped
        self.text += new
        return new

    def end(self) -> str:
        """The rest of the text."""
        rest = self._stream.end()
        self.text += rest
        return rest


def write_samples(chosen: Arguments, model: "GPT", tokenizer: "Tokenizer", ids: "np.ndarray", *, echo: bool) -> bool:
    """Print the first sample as it comes, and then the others; whether Ctrl-C ended it."""
    from rich.console import Console

    texts = begin_samples(chosen, model, tokenizer, ids)
    samples = [Sample(tokenizer, ids, chosen.stop) for _ in range(chosen.num_samples)]
    interrupted, prompt = False, tokenizer.decode(ids[ids != tokenizer.end_of_text]) if echo else ""
    _write(prompt)
    try:
        for piece in _pieces(texts, samples):
            new = [sample.add(row) for sample, row in zip(samples, piece.token.tolist(), strict=True)]
            _write(new[0])
    except KeyboardInterrupt:
        interrupted = True
    for number, sample in enumerate(samples):
        rest = sample.end()
        if number:
            Console().rule()
            rest = prompt + sample.text
        _write(rest + "\n")
    return interrupted


def write_json(chosen: Arguments, model: "GPT", tokenizer: "Tokenizer", ids: "np.ndarray") -> None:
    """A line for each sample: its prompt, its text, and what the model thought of each token."""
    texts = begin_samples(chosen, model, tokenizer, ids)
    samples = [Sample(tokenizer, ids, chosen.stop) for _ in range(chosen.num_samples)]
    told: list[list[dict[str, Any]]] = [[] for _ in samples]
    for piece in _pieces(texts, samples, logprobs=True):
        for row, sample in enumerate(samples):
            before = len(sample.tokens)
            sample.add(piece.token[row].tolist())
            told[row] += [_thought(piece, row, at, tokenizer) for at in range(len(sample.tokens) - before)]
    for number, (sample, tokens) in enumerate(zip(samples, told, strict=True)):
        sample.end()
        line = {"sample": number, "prompt": tokenizer.decode(ids), "text": sample.text, "tokens": tokens}
        _write(json.dumps(line) + "\n")


def _pieces(texts: "Texts", samples: list[Sample], *, logprobs: bool = False) -> Iterator["Drawn"]:
    """The pieces until every sample has ended."""
    from jaxgpt.inference.generate import PIECE

    for piece in texts.pieces(PIECE, logprobs=logprobs):
        yield piece
        if all(sample.ended for sample in samples):
            return


def _thought(piece: "Drawn", row: int, at: int, tokenizer: "Tokenizer") -> dict[str, Any]:
    """A token, its log probability in nats, and the likeliest tokens with theirs."""
    assert piece.logprob is not None
    assert piece.top_tokens is not None
    assert piece.top_logprobs is not None

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"id": token, "text": tokenizer.decode([token]), "logprob": round(logprob, 5)}

    pairs = zip(piece.top_tokens[row, at].tolist(), piece.top_logprobs[row, at].tolist(), strict=True)
    top = [entry(*pair) for pair in pairs if pair[0] < tokenizer.vocab_size]
    return entry(int(piece.token[row, at]), float(piece.logprob[row, at])) | {"top": top}


def _write(text: str) -> None:
    sys.stdout.write(text)  # rich would change tabs, control characters and :names:
    sys.stdout.flush()
