"""What does one GPU do with this code: is it right, how fast, what was predicted, what do others reach?

    make gpu-day                # or: python -m experiments.gpu_day [--nanogpt FOLDER] [--rows "train 124M"] [--again]

For a machine with one GPU and ten minutes. Each part is a process of its own, so that one which fails, hangs or fills
the memory ends alone: its row says why, and the others follow. A row is saved when it is known. A second start makes
only what is missing; rows of another device or of other versions are made again. Without a GPU the same is done at a
tiny size, as a test of itself. What it does not show: several devices; quality.
"""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from experiments import evidence
from experiments.gpu_parts import MARK, PARTS
from experiments.gpu_rivals import beside_ours

SAME = ("device", "size", "python", "jax", "flax")
"""What a kept row must have been made with."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Measure one GPU, in parts."""

    rows: tuple[str, ...] = tuple(PARTS)
    """Which parts; `device`, which is quick, is always made."""
    nanogpt: Path | None = None
    """The folder of a nanoGPT checkout, whose model is timed too."""
    minutes: float = 10.0
    """For everything; what has not begun by then waits for the next start."""
    again: bool = False
    """Make rows again that are there already."""
    results: Path = evidence.RESULTS
    """Where the result goes."""


def main(arguments: Arguments) -> dict[str, Any]:
    """Print and save the rows as they are known, then all of them as a table."""
    if unknown := set(arguments.rows) - PARTS.keys():
        raise SystemExit(f"--rows {', '.join(sorted(unknown))}: unknown; known: {', '.join(PARTS)}")
    ends = time.monotonic() + 60 * arguments.minutes
    device = dict(made("device", {}, arguments, ends)).get("device", {"failed": "it gave no row"})
    if "failed" in device:
        raise SystemExit(f"device: {device['failed']}")
    name = "gpu-day-" + device["environment"]["device"].lower().replace(" ", "-")
    result = kept(name, device, arguments)
    for part in (part for part in PARTS if part in arguments.rows and part not in result["done"]):
        failed = False
        for row, found in made(part, device, arguments, ends):
            failed |= "failed" in found
            result["rows"][row] = found
            beside_ours(result["rows"])
            print(f"{row}: {evidence.rounded(found, 4)}", flush=True)
            evidence.write(name, result, arguments.results)
        result["done"] += [] if failed else [part]
    evidence.write(name, result, arguments.results)
    print(table(result["rows"]))
    return result


def kept(name: str, device: dict[str, Any], arguments: Arguments) -> dict[str, Any]:
    """What an earlier start on the same device with the same versions has left, without the rows that failed."""
    result = {"environment": device["environment"], "done": ["device"], "rows": {"device": device}}
    path = arguments.results / f"{name}.json"
    if arguments.again or not path.exists():
        return result
    before = json.loads(path.read_text())
    if all(before["environment"].get(key) == device["environment"].get(key) for key in SAME):
        rows = {row: found for row, found in before["rows"].items() if "failed" not in found}
        result |= {"done": before["done"], "rows": rows | result["rows"]}
    return result


def made(part: str, device: dict[str, Any], arguments: Arguments, ends: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a part as its process prints them; where it ends early, a last row that says why."""
    limit = min(PARTS[part].seconds, ends - time.monotonic())
    if limit <= 0:
        yield part, {"failed": f"no time was left of {arguments.minutes:g} minutes; the next start makes it"}
        return
    command = [sys.executable, "-m", "experiments.gpu_parts", part, "--device", json.dumps(device)]
    if arguments.nanogpt:
        command += ["--nanogpt", str(arguments.nanogpt)]
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True) as process,
    ):
        timer = threading.Timer(limit, end, [process])
        timer.start()
        try:
            for line in process.stdout or ():
                if line.startswith(MARK):
                    yield from json.loads(line.removeprefix(MARK)).items()
            code = process.wait()
        finally:
            timer.cancel()
            end(process)
        if code and time.monotonic() - began >= limit:
            yield part, {"failed": f"it took more than {limit:.0f} seconds"}
        elif code:
            errors.seek(0)
            yield part, {"failed": reason(errors.read(), code)}


def end(process: subprocess.Popen) -> None:
    """End a part with all that it has started: torch compiles in processes of its own, which hold the pipe open."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reason(errors: str, code: int) -> str:
    """The last line of an error."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else 'no message'} (exit code {code})"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The main number of each row beside what was predicted or wanted."""
    head = ("row", "measured", "predicted, wanted or allowed")
    cells = [
        head,
        *((name, row.get("measured", row.get("failed", "")), row.get("beside", "")) for name, row in rows.items()),
    ]
    widths = [max(len(row[at]) for row in cells) for at in range(2)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in cells)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
