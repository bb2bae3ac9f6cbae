"""Some texts that grow together: what the cache holds of them, and when they have to be read again."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Int

from jaxgpt.config import GPTConfig, Weights
from jaxgpt.errors import UserError
from jaxgpt.inference import buckets
from jaxgpt.inference.programs import Rules, State, decode, prefill
from jaxgpt.inference.sampling import Drawn, Kind
from jaxgpt.inference.weights import cast_once
from jaxgpt.model.gpt import GPT
from jaxgpt.ops.attention import select_backend
from jaxgpt.ops.platform import target_platform


class Texts:
    """Prompts and what is drawn after them. A text that has reached the context length goes on from its last half."""

    def __init__(
        self,
        model: GPT,
        prompts: Sequence[np.ndarray],
        new_tokens: int,
        rules: Rules,
        kind: Kind,
        *,
        fused: bool = False,
        weights: Weights | None = None,
    ) -> None:
        """`rules` have a row for each prompt, and perhaps more: those are padding."""
        self.model = cast_once(model, weights)
        self.count, padding = len(prompts), len(rules.seeds) - len(prompts)
        self.rules, self.kind, self.fused = rules, kind, fused
        self.left, self.drawn = new_tokens, 0
        self.visible = [np.asarray(prompt, np.int32) for prompt in prompts] + [np.zeros(1, np.int32)] * padding
        self.stopped: Bool[np.ndarray, " B"] = np.arange(len(self.visible)) >= self.count
        self.capacity = 0
        self.state: State | None = None

    def pieces(self, size: int | None = None, *, logprobs: bool = False) -> Iterator[Drawn]:
        """The new tokens of all texts, [B, n], at most `size` at a time; ends where all have drawn a stop token."""
        while self.left and not (self.drawn and self.stopped.all()):
            space = self._space()
            if self.state is None or space == 0:
                drawn = self._read(logprobs)
            else:
                drawn = self._decode(min(self.left, space, size or self.capacity, self.capacity), logprobs)
            self._append(np.asarray(drawn.token))
            yield jax.tree.map(lambda leaf: leaf[: self.count], drawn)

    def _space(self) -> int:
        """How many tokens fit before a text has to be read again."""
        limit = self.model.config.max_length
        going = [len(text) for text, stopped in zip(self.visible, self.stopped, strict=True) if not stopped]
        return self.left if limit is None else max(0, limit - max(going))

    def _read(self, logprobs: bool) -> Drawn:
        """Read what the model may see of each text, and draw a token."""
        config, limit = self.model.config, self.model.config.max_length
        if limit is not None:
            self.visible = [text[-max(1, limit // 2) :] if len(text) >= limit else text for text in self.visible]
        lengths = np.array([len(text) for text in self.visible], np.int32)
        size = buckets.prompt_size(config, int(lengths.max()))
        self.capacity = buckets.capacity(config, size, int(lengths.max()) + self.left)
        drawn, self.state = prefill(
            self.model,
            np.stack([np.pad(text, (0, size - len(text))) for text in self.visible]),
            lengths,
            np.array([text[-1] for text in self.visible], np.int32),
            np.full(len(lengths), self.drawn, np.int32),
            self.stopped,
            self.rules,
            capacity=self.capacity,
            kind=self.kind,
            logprobs=logprobs,
        )
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, None], drawn)

    def _decode(self, count: int, logprobs: bool) -> Drawn:
        """Draw so many tokens of each text, or fewer where all stop."""
        assert self.state is not None
        drawn, found, self.state = decode(
            self.model,
            self.state,
            self.rules,
            np.int32(count),
            room=self.capacity,
            kind=self.kind,
            logprobs=logprobs,
            fused=self.fused,
        )
        end = min(count, int(found))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[:, :end], drawn)

    def _append(self, tokens: Int[np.ndarray, "B S"]) -> None:
        self.visible = [np.concatenate(pair) for pair in zip(self.visible, tokens, strict=True)]
        self.stopped = self.stopped | np.isin(tokens, self.rules.stop_tokens).any(axis=1)
        self.left -= tokens.shape[1]
        self.drawn += tokens.shape[1]


def check_prompts(
    config: GPTConfig, prompts: Sequence[np.ndarray], new_tokens: int, *, slide: bool, fused: bool = False
) -> None:
    """Raise UserError where the model cannot continue these token ids by so many, or its attention cannot run here."""
    _check_attention(config)
    if new_tokens < 0:
        raise UserError(f"max_new_tokens={new_tokens} is below 0")
    low, high = min(int(prompt.min()) for prompt in prompts), max(int(prompt.max()) for prompt in prompts)
    if low < 0 or high >= config.vocab_size:
        wrong = low if low < 0 else high
        raise UserError(
            f"token {wrong} is not in the vocabulary of {config.vocab_size}; is it another model's tokenizer?"
        )
    if not slide:
        longest = max(len(prompt) for prompt in prompts) + new_tokens
        if config.max_length is not None and longest > config.max_length:
            raise UserError(
                f"{longest} tokens are more than context_length={config.context_length}; shorten the text, go on from "
                "the last half of the context with slide=True, or use position='rotary' with a window in every layer"
            )
    if fused:
        from jaxgpt.inference.fused import check  # only here: Pallas' Triton backend may not be in every jax

        check(config)


def _check_attention(config: GPTConfig) -> None:
    select_backend(
        config.attention,
        platform=target_platform(),
        dtype=config.dtype,
        head_dim=config.head_dim,
        length=config.context_length,
        dropout=0.0,
    )


def as_prompts(tokens: object) -> list[np.ndarray]:
    """Each prompt as an array of whole numbers. Raises UserError where it is something else, or empty."""
    rows = [np.asarray(row) for row in tokens]  # type: ignore[attr-defined]
    if any(row.ndim == 0 for row in rows):
        raise UserError("prompts are a batch, [B, T]; put a single prompt into a list")
    if not rows or any(row.size == 0 for row in rows):
        raise UserError("a prompt is empty; give at least one token, such as the end-of-text token")
    if any(not np.issubdtype(row.dtype, np.integer) for row in rows):
        raise UserError(f"prompts are token ids, whole numbers, not {rows[0].dtype}; encode the text first")
    return rows
