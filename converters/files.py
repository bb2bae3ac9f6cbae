"""Files of others, looked at before they are read: regular files only, of a size that is known."""

import json
import stat
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError

JSON_BYTES = 50_000_000
"""No config, and no index of a model that fits on a machine, is larger."""


def regular_file(path: Path, most_bytes: int | None = None) -> Path:
    """The path. Raises UserError where it is no regular file (a pipe would never end), or larger than `most_bytes`."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): get it again, or name another") from None
    if stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a folder where a file is expected")
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is a pipe, socket or device, not a file: copy its content to a file first")
    if most_bytes is not None and found.st_size > most_bytes:
        raise UserError(f"{path} has {found.st_size:,} bytes, and such a file has at most {most_bytes:,}: get it again")
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError where it holds anything else."""
    regular_file(path, JSON_BYTES)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): get it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not a JSON object: get it again")
    return value


def shard_names(index: Path) -> dict[str, str]:
    """Each tensor's file name, from an index. Raises UserError on a name that leads out of the index's folder."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map of tensor names to file names: get it again")
    for name in names.values():
        if Path(name).name != name or "\\" in name or "\0" in name or name in ("", ".."):
            raise UserError(f"{index} points to {shown(name)}, outside its folder: refused; do not trust this model")
    return names


def existing_shard(path: Path) -> Path:
    """The path of a shard. Raises UserError where there is no such file."""
    if not path.exists():
        raise UserError(f"{path} is missing, though the index names it: get it again")
    return path


def shown(value: object) -> str:
    """A value from a file as a message shows it: at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or deep nesting, inside
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
