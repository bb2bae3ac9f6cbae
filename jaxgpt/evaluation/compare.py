"""Models beside each other on the same text, whatever their tokenizers: by document, in bits per byte."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxgpt.data import Tokenizer
from jaxgpt.errors import UserError
from jaxgpt.evaluation.evaluate import Text, ratio_error
from jaxgpt.evaluation.scoring import BatchSize, document_windows, score_windows
from jaxgpt.evaluation.tasks.scorer import Bar, no_bar
from jaxgpt.evaluation.tasks.task import Measure
from jaxgpt.model.gpt import GPT

PIECE = 2000
"""Characters, about: longer documents are cut into pieces of this size, so that there are enough to compare."""


class DocumentScores(NamedTuple):
    """A model on some documents."""

    nats: Float[np.ndarray, " N"]
    """Each document's negative log-likelihood."""
    tokens: Int[np.ndarray, " N"]
    """Predicted of each document; without an end_of_text the first token of a document is not."""
    bytes: Int[np.ndarray, " N"]

    @property
    def loss(self) -> float:
        """Nats per token of the model's own tokenizer."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> Measure:
        return _bits(self.nats, self.bytes)


def score_documents(
    model: GPT, tokenizer: Tokenizer, documents: Sequence[str], batch_size: BatchSize = "auto", bar: Bar = no_bar
) -> DocumentScores:
    """Score each document by itself. Raises UserError where the tokenizer cannot write one."""
    texts = tokenizer.encode_all(list(documents))
    groups = document_windows(model.config, texts, prefix=tokenizer.end_of_text)
    flat = [window for group in groups for window in group]
    with bar("windows", len(flat)) as advance:
        scores = iter(score_windows(model, flat, batch_size=batch_size, progress=advance))
    found = [[next(scores).logprobs for _ in group] for group in groups]
    return DocumentScores(
        np.array([-sum(float(part.sum(dtype=np.float64)) for part in parts) for parts in found]),
        np.array([sum(map(len, parts)) for parts in found]),
        np.array([len(document.encode()) for document in documents]),
    )


def difference(one: DocumentScores, other: DocumentScores) -> Measure:
    """How many more bits per byte the second needs than the first, paired by document."""
    return _bits(other.nats - one.nats, one.bytes)


def documents_of(tokens: Text, tokenizer: Tokenizer, limit: int | None = None) -> list[str]:
    """The texts between the ends of text, in pieces of about PIECE characters; with a limit, some spread over all.

    Raises UserError where there are fewer than two, which say nothing of an error.
    """
    tokens, end = np.asarray(tokens), tokenizer.end_of_text
    parts = [tokens] if end is None else np.split(tokens, np.flatnonzero(tokens == end))
    texts = (tokenizer.decode(part[part != end] if end is not None else part) for part in parts)
    found = [piece for text in texts for piece in pieces(text) if len(piece.strip()) > 1]
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    if len(found) < 2:
        raise UserError(f"the text has {len(found)} documents of up to {PIECE} characters: give a longer one by --data")
    return found


def pieces(text: str) -> Iterator[str]:
    """A text cut after line ends, or after blanks where a line is long."""
    while len(text) > PIECE:
        at = text.rfind("\n", 0, PIECE) + 1 or text.rfind(" ", 0, PIECE) + 1 or PIECE
        yield text[:at]
        text = text[at:]
    if text:
        yield text


def _bits(nats: Float[np.ndarray, " N"], sizes: Int[np.ndarray, " N"]) -> Measure:
    error = ratio_error(nats, sizes)
    return Measure(float(nats.sum() / sizes.sum() / math.log(2)), None if error is None else float(error / math.log(2)))
