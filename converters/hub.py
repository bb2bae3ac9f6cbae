"""Where weights come from: a path on this machine, or the name of a model on the Hugging Face hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from converters.gpt2_tokenizer import FILES as TOKENIZER
from jaxgpt.errors import UserError

CONFIGS = ("config.json", "generation_config.json", *TOKENIZER)
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")


def is_local(source: str | Path) -> bool:
    """Whether the source is a path on this machine."""
    return Path(source).expanduser().exists()


def local_path(source: str | Path) -> Path:
    """The file or folder of a source; a model of the hub is downloaded into the hub's cache, or found there.

    HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME are honoured. Raises UserError where nothing is found.
    """
    if is_local(source):
        return Path(source).expanduser()
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source), re.ASCII):
        raise UserError(f"{source} does not exist; give a folder, a weights file, or a hub id such as owner/model")
    folder = _snapshot(str(source), (*CONFIGS, *SAFETENSORS))
    if not any(folder.glob("*.safetensors")):
        folder = _snapshot(str(source), (*CONFIGS, *PICKLES))
    return folder


def _snapshot(model: str, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # not found, no network, off line
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model} is no path on this machine, and the hub gave no such model: {reason}") from None
