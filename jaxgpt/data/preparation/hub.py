"""Data sets of the Hugging Face hub: their parquet files, read as they stream."""

import re
from functools import cache
from typing import Any, BinaryIO, cast

from jaxgpt.data.preparation.inputs import HUB, Input
from jaxgpt.errors import UserError

CONVERTED = "refs/convert/parquet"
"""The branch in which the hub keeps a parquet copy of data sets of other formats."""


def find_parquet(name: str) -> list[Input]:
    """The parquet files of hf://datasets/OWNER/NAME[/CONFIG], sorted by path.

    Raises:
        UserError: There is no such data set, or the hub cannot be reached.
    """
    match = re.fullmatch(rf"{HUB}([\w.-]+/[\w.-]+)(/.*)?", name)
    if not match:
        raise UserError(f"{name} must be {HUB}OWNER/NAME or {HUB}OWNER/NAME/CONFIG")
    owner_and_name, config = match[1], (match[2] or "").strip("/")
    for revision in ("", f"@{CONVERTED.replace('/', '%2F')}"):
        root = f"datasets/{owner_and_name}{revision}"
        if found := _list(f"{root}/{config}".rstrip("/"), name):
            return [
                Input(f"hf://{path}", path.removeprefix(f"{root}/"), "parquet", size)
                for path, size in sorted(found.items())
            ]
    raise UserError(f"{name} has no parquet files: look at its files on the hub, and name a folder of them as CONFIG")


def open_hub(path: str) -> BinaryIO:
    """A file of the hub, read as it streams."""
    return cast(BinaryIO, _filesystem().open(path.removeprefix("hf://"), "rb", block_size=1 << 22))


def split_name(source: Input) -> str | None:
    """train, test, ... where a file is named after a split, such as `data/test-00000.parquet` or `test/0.parquet`."""
    words = re.split(r"[/\\]", source.name)
    for word in (words[-1], *words[-2:-1]):
        if match := re.match(r"(train|test|validation|valid|val|dev)\b", word.replace("_", " ")):
            return {"valid": "validation", "val": "validation", "dev": "validation"}.get(match[1], match[1])
    return None


def _list(root: str, name: str) -> dict[str, int]:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        found = _filesystem().find(root, detail=True)
    except FileNotFoundError:
        return {}
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"{name} cannot be read from the hub ({str(error).splitlines()[0]}): is it reachable?"
        ) from error
    return {path: int(file["size"] or 0) for path, file in found.items() if path.endswith(".parquet")}


@cache
def _filesystem() -> Any:
    from huggingface_hub import HfFileSystem

    return HfFileSystem()
