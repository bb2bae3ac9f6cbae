"""The model that lm-evaluation-harness asks (pip install 'jaxgpt[lm-eval]'): its three kinds of requests.

`jaxgpt lm_eval` is the harness's own command with this model registered; it finds no models by itself.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from jaxgpt.data import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.scoring import BatchSize, loglikelihood, rolling_loglikelihood
from jaxgpt.evaluation.tasks.scorer import encode_pairs
from jaxgpt.inference.generate import generate
from jaxgpt.model.gpt import GPT

GENERATED_AT_ONCE = 16
"""Prompts that are continued together, where batch_size is auto."""


class HarnessModel(LM):
    """A model and its tokenizer. All devices of the model's mesh share out the requests."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, batch_size: BatchSize = "auto", max_gen_toks: int = 256
    ) -> None:
        super().__init__()
        self.model, self.text_tokenizer = model, tokenizer
        self.batch_size, self.max_gen_toks = batch_size, max_gen_toks

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each pair of texts, ln p(second | first), and whether the second is what greedy decoding says."""
        del disable_tqdm
        pairs = encode_pairs(self.text_tokenizer, [request.args for request in requests])
        scores = loglikelihood(
            self.model, [before for before, _ in pairs], [after for _, after in pairs], batch_size=self.batch_size
        )
        found = [(score.logprob, score.is_greedy) for score in scores]
        self._remember("loglikelihood", requests, found)
        return found

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """For each text, ln p of all of it after end_of_text, in windows of the context length."""
        del disable_tqdm
        texts = self.text_tokenizer.encode_all([request.args[0] for request in requests])
        prefix = self.text_tokenizer.end_of_text
        found = rolling_loglikelihood(self.model, texts, prefix=prefix, batch_size=self.batch_size)
        self._remember("loglikelihood_rolling", requests, found)
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Each text continued up to the first of its stop sequences, or for max_gen_toks tokens."""
        del disable_tqdm
        prompts = self.text_tokenizer.encode_all([request.args[0] for request in requests])
        settings = [request.args[1] for request in requests]
        found: list[str] = [""] * len(requests)
        order = sorted(range(len(requests)), key=lambda i: (repr(settings[i]), -len(prompts[i])))
        size = GENERATED_AT_ONCE if self.batch_size == "auto" else self.batch_size
        for _, members in itertools.groupby(order, key=lambda i: repr(settings[i])):
            group = list(members)
            for batch in (group[start : start + size] for start in range(0, len(group), size)):
                for i, text in zip(batch, self._continued([prompts[i] for i in batch], settings[batch[0]])):
                    found[i] = text
        self._remember("generate_until", requests, found)
        return found

    def _continued(self, prompts: list[np.ndarray], settings: dict[str, Any]) -> list[str]:
        """What comes after prompts with the same settings."""
        chosen: dict[str, Any] = {**normalize_gen_kwargs(settings, self.max_gen_toks)}
        end = self.text_tokenizer.end_of_text
        until = handle_stop_sequences(chosen["until"], eos=None if end is None else self.text_tokenizer.decode([end]))
        count, room = chosen["max_gen_toks"], self.model.config.max_length
        if room is not None and count >= room:
            raise UserError(
                f"max_gen_toks={count} leaves no room for a prompt in context_length={room}: ask for fewer tokens, by "
                f"--gen_kwargs max_gen_toks={room // 2}"
            )
        kept = [prompt if room is None else prompt[-(room - count) :] for prompt in prompts]
        new = generate(
            self.model,
            [prompt.tolist() for prompt in kept],
            count,
            temperature=chosen["temperature"] if chosen["do_sample"] else 0.0,
            top_k=chosen.get("top_k"),
            top_p=chosen.get("top_p"),
            stop_token=end,
        )[:, max(map(len, kept)) :]
        return [postprocess_generated_text(self._text(row), until, None) for row in new]

    def _text(self, tokens: np.ndarray) -> str:
        """Tokens up to end_of_text, as text."""
        end = self.text_tokenizer.end_of_text
        return self.text_tokenizer.decode(itertools.takewhile(lambda token: token != end, tokens.tolist()))

    def _remember(self, kind: str, requests: list[Instance], found: Sequence[Any]) -> None:
        """For the harness's own cache."""
        for request, answer in zip(requests, found):
            self.cache_hook.add_partial(kind, request.args, answer)
