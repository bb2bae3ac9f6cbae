"""GPT-2 in JAX: rotary positions, grouped-query attention and sliding windows as switches.

The public names are below. They are imported when first used, so that importing jaxgpt costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxgpt.runtime.xla_flags import avoid_wrong_sums

if TYPE_CHECKING:
    from jaxgpt.config import GPTConfig
    from jaxgpt.data.batches import Batches
    from jaxgpt.data.tokenizer import CharTokenizer, GPT2Tokenizer
    from jaxgpt.errors import UserError
    from jaxgpt.evaluation.evaluate import evaluate
    from jaxgpt.evaluation.scoring import loglikelihood, rolling_loglikelihood
    from jaxgpt.inference.generate import generate, stream
    from jaxgpt.launch import TrainResult, train
    from jaxgpt.loading import load, load_tokenizer, save
    from jaxgpt.model.gpt import GPT
    from jaxgpt.model.loss import next_token_loss
    from jaxgpt.parallel.mesh import MeshConfig, make_mesh
    from jaxgpt.parallel.sharding import shard
    from jaxgpt.parallel.value_and_grad import value_and_grad
    from jaxgpt.training.config import DataConfig, OptimizerConfig, TrainConfig
    from jaxgpt.training.muon import muon_dimensions
    from jaxgpt.training.optimizer import decay_mask
    from jaxgpt.training.trainer import Trainer

_HOME = {
    "Batches": "jaxgpt.data.batches",
    "CharTokenizer": "jaxgpt.data.tokenizer",
    "DataConfig": "jaxgpt.training.config",
    "GPT": "jaxgpt.model.gpt",
    "GPT2Tokenizer": "jaxgpt.data.tokenizer",
    "GPTConfig": "jaxgpt.config",
    "MeshConfig": "jaxgpt.parallel.mesh",
    "OptimizerConfig": "jaxgpt.training.config",
    "TrainConfig": "jaxgpt.training.config",
    "TrainResult": "jaxgpt.launch",
    "Trainer": "jaxgpt.training.trainer",
    "UserError": "jaxgpt.errors",
    "decay_mask": "jaxgpt.training.optimizer",
    "evaluate": "jaxgpt.evaluation.evaluate",
    "generate": "jaxgpt.inference.generate",
    "load": "jaxgpt.loading",
    "load_tokenizer": "jaxgpt.loading",
    "loglikelihood": "jaxgpt.evaluation.scoring",
    "make_mesh": "jaxgpt.parallel.mesh",
    "muon_dimensions": "jaxgpt.training.muon",
    "next_token_loss": "jaxgpt.model.loss",
    "rolling_loglikelihood": "jaxgpt.evaluation.scoring",
    "save": "jaxgpt.loading",
    "shard": "jaxgpt.parallel.sharding",
    "stream": "jaxgpt.inference.generate",
    "train": "jaxgpt.launch",
    "value_and_grad": "jaxgpt.parallel.value_and_grad",
}
"""Where each public name is defined."""

__all__ = [
    "GPT",
    "Batches",
    "CharTokenizer",
    "DataConfig",
    "GPT2Tokenizer",
    "GPTConfig",
    "MeshConfig",
    "OptimizerConfig",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "UserError",
    "decay_mask",
    "evaluate",
    "generate",
    "load",
    "load_tokenizer",
    "loglikelihood",
    "make_mesh",
    "muon_dimensions",
    "next_token_loss",
    "rolling_loglikelihood",
    "save",
    "shard",
    "stream",
    "train",
    "value_and_grad",
]

avoid_wrong_sums()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jaxgpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
