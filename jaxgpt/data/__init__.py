"""Text in, batches of token ids out: tokenizers, corpora, token shards, batches."""

from jaxgpt.data.batches import Batches, device_put_batch, eval_batches
from jaxgpt.data.corpus import Corpus, read
from jaxgpt.data.shards import TokenData, prepare
from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer, Tokenizer, from_spec

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
