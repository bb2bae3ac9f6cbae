"""GPT-2 in JAX: rotary positions, grouped-query attention and sliding windows as switches.

The public names are below. They are imported when first used, so that importing jaxgpt costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgpt.config import GPTConfig
    from jaxgpt.evaluation.evaluate import evaluate
    from jaxgpt.evaluation.scoring import loglikelihood, rolling_loglikelihood
    from jaxgpt.inference.generate import generate, stream
    from jaxgpt.loading import load, load_tokenizer
    from jaxgpt.model.gpt import GPT

__all__ = [
    "GPT",
    "GPTConfig",
    "evaluate",
    "generate",
    "load",
    "load_tokenizer",
    "loglikelihood",
    "rolling_loglikelihood",
    "stream",
]

_HOME = {
    "GPT": "jaxgpt.model.gpt",
    "GPTConfig": "jaxgpt.config",
    "evaluate": "jaxgpt.evaluation.evaluate",
    "generate": "jaxgpt.inference.generate",
    "load": "jaxgpt.loading",
    "load_tokenizer": "jaxgpt.loading",
    "loglikelihood": "jaxgpt.evaluation.scoring",
    "rolling_loglikelihood": "jaxgpt.evaluation.scoring",
    "stream": "jaxgpt.inference.generate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
