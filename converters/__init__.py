"""Weights in and out: one table per architecture, read in both directions."""

from converters.load import load_pretrained
from converters.save import save_pretrained

__all__ = ["load_pretrained", "save_pretrained"]
