"""Text in, batches of token ids out: tokenizers, corpora, token shards, batches."""

from typing import TYPE_CHECKING, Any

from jaxgpt.data.batches import Batches, eval_batches
from jaxgpt.data.corpus import Corpus, read
from jaxgpt.data.shards import TokenData, prepare
from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, from_spec

if TYPE_CHECKING:
    from jaxgpt.data.device import device_put_batch

__all__ = [
    "Batches",
    "CharTokenizer",
    "Corpus",
    "GPT2Tokenizer",
    "TokenData",
    "Tokenizer",
    "device_put_batch",
    "eval_batches",
    "from_spec",
    "prepare",
    "read",
]


def __getattr__(name: str) -> Any:
    if name != "device_put_batch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxgpt.data.device import device_put_batch  # with jax, which the processes that prepare data do without

    return device_put_batch
