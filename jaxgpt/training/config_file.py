"""Settings in a file: a few of them as TOML, or all of them as JSON, such as the config.json of a run."""

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from jaxgpt.errors import UserError
from jaxgpt.training.config import TrainConfig


class ConfigFile(NamedTuple):
    """What a file of settings says."""

    preset: str | None
    """The preset that its settings change. None: it names none."""
    fields: dict[str, Any]
    """Settings by dotted names, such as model.window."""


def read_config_file(path: Path) -> ConfigFile:
    """The settings in a file; of a run folder, those in its config.json. Raises UserError where they cannot be read."""
    if path.is_dir():
        path = path / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"--config {path} is neither JSON nor TOML: {error}") from None
    if "jaxgpt_run" in found:
        found = TrainConfig.from_dict(found.get("config", {})).to_dict()
    preset = found.pop("preset", None)
    if not (preset is None or isinstance(preset, str)):
        raise UserError(f"--config {path}: preset={preset!r} must be the name of a preset")
    return ConfigFile(preset, _flat(found))


def dump_config(config: TrainConfig, preset: str | None) -> str:
    """JSON that `read_config_file` reads back."""
    named = {} if preset is None else {"preset": preset}
    return json.dumps(named | config.to_dict(), indent=2, ensure_ascii=False)


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """One level of names with dots. A name may be spelled as in a flag, and so may None, which TOML lacks.

    >>> _flat({"model": {"num-kv-heads": "None", "window": [64, 8]}, "steps": 3})
    {'model.num_kv_heads': None, 'model.window': (64, 8), 'steps': 3}
    """
    flat: dict[str, Any] = {}
    for outer, value in tree.items():
        inner = {f"{outer}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {outer: value}
        flat |= {name.replace("-", "_"): _python(each) for name, each in inner.items()}
    return flat


def _python(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_python(each) for each in value)
    return None if value == "None" else value
