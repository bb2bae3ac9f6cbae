"""Text in, batches of token ids out: tokenizers, corpora, token shards, batches.

The names below are imported when first used: processes that prepare data start with what they need.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgpt.data.batches import Batches, eval_batches
    from jaxgpt.data.corpus import Corpus, read
    from jaxgpt.data.device import DeviceBatches, device_put_batch
    from jaxgpt.data.sources import open_data, prepare
    from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, from_spec
    from jaxgpt.data.tokens import TokenData

_HOME = {
    "Batches": "batches",
    "CharTokenizer": "tokenizer",
    "Corpus": "corpus",
    "DeviceBatches": "device",
    "GPT2Tokenizer": "tokenizer",
    "TokenData": "tokens",
    "Tokenizer": "tokenizer",
    "device_put_batch": "device",
    "eval_batches": "batches",
    "from_spec": "tokenizer",
    "open_data": "sources",
    "prepare": "sources",
    "read": "corpus",
}

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
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxgpt.data.{_HOME[name]}"), name)
