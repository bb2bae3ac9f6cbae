"""metrics.jsonl: an object of numbers for each report of a run."""

import json
import math
import os
from pathlib import Path
from typing import Any

from jaxgpt.training.appended_file import AppendedFile

FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run that are whole: one may be damaged, and the last cut off by a kill. None, without a file."""
    file, lines = folder / FILE, []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            lines.append(found)
    return lines


class JsonLines:
    """metrics.jsonl: an object for each line."""

    name = FILE

    def __init__(self, path: Path) -> None:
        self._file = AppendedFile(path)
        self.close = self._file.close

    def write(self, line: dict[str, float | None]) -> None:
        self._file.append(json.dumps(line).encode() + b"\n")


def forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that the restored checkpoint has not seen, and a last line cut off by a kill."""
    if not path.is_file():
        return
    content = path.read_bytes()
    kept = b"".join(line + b"\n" for line in content.splitlines() if _step_of(line) <= step)
    if content.startswith(kept):
        if len(kept) < len(content):
            os.truncate(path, len(kept))  # which a full disk allows too
        return
    draft = path.with_suffix(".part")
    draft.write_bytes(kept)
    draft.replace(path)


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def last_seconds(path: Path) -> float:
    """How long the run had taken, by the last line; 0 where there is none."""
    try:
        return float(json.loads(path.read_bytes().splitlines()[-1])["seconds"]) if path.is_file() else 0.0
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0.0
