"""Where weights come from, a path on this machine or a model of the Hugging Face hub, and how a folder gets there."""

import re
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import repo_folder_name

from converters.companions import TOKENIZER_FILES
from converters.download import download
from converters.files import shown
from jaxgpt.errors import UserError

CONFIGS = ("config.json", "generation_config.json", "adapter_config.json", *TOKENIZER_FILES)
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
FLAX = ("flax_model.msgpack",)


def is_local(source: str | Path) -> bool:
    """Whether the source is a path on this machine."""
    try:
        return Path(source).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a zero byte, of no user
        return False


def local_path(source: str | Path) -> Path:
    """The file or folder of a source; a model of the hub is downloaded into the hub's cache, or found there.

    HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME are honoured. Raises UserError where nothing is found.
    """
    if is_local(source):
        return Path(source).expanduser()
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source), re.ASCII):
        name = shown(str(source))[1:-1]
        raise UserError(f"{name} does not exist; give a folder, a weights file, or a hub id such as owner/model")
    for weights, pattern in ((SAFETENSORS, "*.safetensors"), (PICKLES, "*.bin"), (FLAX, "*.msgpack")):
        folder = _snapshot(str(source), (*CONFIGS, *weights))
        if any(folder.glob(pattern)):
            break
    return folder


def check_push(name: str) -> None:
    """Raise UserError where nothing can be pushed to a model of this name: no such name, off line, not logged in."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise UserError(f"--push-to {shown(name)[1:-1]} is no name of a model on the hub; write OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"--push-to {name} needs the hub, and HF_HUB_OFFLINE is set: unset it")
    if get_token() is None:
        raise UserError(f"--push-to {name} needs an account of the hub: log in by `hf auth login`, or set HF_TOKEN")


def push(folder: Path, name: str) -> str:
    """Upload a folder as a model of the hub, a private one where it is new; returns its address.

    Raises UserError where the hub refuses; the folder stays.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Upload by jaxgpt")
    except (HTTPError, HFValidationError, OSError) as error:  # the first: of the hub and of its HTTP client
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{folder} is written, and the hub did not take it as {name} ({reason}); "
            f"try again by `hf upload {name} {folder}`"
        ) from None
    return str(address)


def _snapshot(model: str, patterns: tuple[str, ...]) -> Path:
    fetch = partial(snapshot_download, model, allow_patterns=list(patterns))
    try:
        cache = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
        return Path(download(model, fetch, (cache, Path(constants.HF_HOME) / "xet")))
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # not found, no network, off line
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model} is no path on this machine, and the hub gave no such model: {reason}") from None
