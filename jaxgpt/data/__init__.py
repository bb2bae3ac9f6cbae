"""Text in, batches of token ids out: tokenizers, corpora, token shards, batches."""

from typing import TYPE_CHECKING, Any

from jaxgpt.data.batches import Batches, eval_batches
from jaxgpt.data.corpus import Corpus, read
from jaxgpt.data.sources import open_data, prepare
from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, from_spec
from jaxgpt.data.tokens import TokenData

if TYPE_CHECKING:
    from jaxgpt.data.device import DeviceBatches, device_put_batch

__all__ = [
    "Batches",
    "CharTokenizer",
    "Corpus",
    "DeviceBatches",
    "GPT2Tokenizer",
    "TokenData",
    "Tokenizer",
    "device_put_batch",
    "eval_batches",
    "from_spec",
    "open_data",
    "prepare",
    "read",
]


def __getattr__(name: str) -> Any:
    if name not in ("DeviceBatches", "device_put_batch"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jaxgpt.data import device  # with jax, which the processes that prepare data do without

    return getattr(device, name)
