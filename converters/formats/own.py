"""Our own layout: any GPT, whatever its variant, under the names and shapes it has in memory."""

from pathlib import Path
from typing import Any

from converters.files import shown
from converters.hf_config import checked_config
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

MARK = "jaxgpt_model"
"""The field of config.json that says the layout is ours, and its version."""
VERSION = 1


def write_config(config: GPTConfig, dtype: str) -> dict[str, Any]:
    """The fields of config.json."""
    return {MARK: VERSION, "dtype": dtype, "config": config.to_dict()}


def read_config(fields: dict[str, Any], folder: Path) -> GPTConfig:
    """The config in the fields of config.json. Raises UserError on another version, and on values of no model."""
    if fields[MARK] != VERSION:
        raise UserError(f"{folder} has layout {shown(fields[MARK])}, and this version reads layout {VERSION}")
    if not isinstance(fields.get("config"), dict):
        raise UserError(f"{folder}/config.json has no config of a GPT: restore it from a copy")
    return checked_config(fields["config"])
