"""Weights in and out: one table per architecture, read in both directions."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxgpt.runtime.xla_flags import avoid_wrong_sums

if TYPE_CHECKING:
    from converters.load import load_pretrained
    from converters.save import save_pretrained

_HOME = {"load_pretrained": "converters.load", "save_pretrained": "converters.save"}

__all__ = ["load_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first used, so that `jaxgpt convert --help` need not wait for jax."""
    if name not in _HOME:
        raise AttributeError(f"module 'converters' has no attribute {name!r}")
    avoid_wrong_sums()
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
