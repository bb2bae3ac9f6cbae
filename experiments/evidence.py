"""What makes a result one: where it lies, the machine and the command that gave it, and whether a difference is one."""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "flax", "optax", "numpy")


def environment(command: str, *packages: str) -> dict[str, Any]:
    """What the numbers depend on; more packages where these do too.

    The load is that of the last minute: above 0.5, the machine had other work.
    """
    import jax

    load = os.getloadavg()[0]
    return {
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
        "load_at_start": round(load, 2),
        "machine_was_shared": load > 0.5,
        **{name: version(name) for name in (*PACKAGES, *packages)},
    }


def cpu_name() -> str:
    """The processor as it calls itself, with what it can do with vectors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = facts.get("flags", "").split()
    vectors = [name.upper() for name in ("avx2", "avx512f", "amx_bf16") if name in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(vectors)})"


def rounded(value: Any, digits: int = 5) -> Any:
    """The same with floats cut to so many significant digits: a result is read by people, too."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value


def write(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Save a result as NAME.json, whole or not at all; lists of numbers take one line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    draft = path.with_suffix(".draft")
    draft.write_text(_spelled(rounded(result)) + "\n")
    draft.replace(path)
    print(f"written: {path.name}", flush=True)
    return path


def read(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """A result by its name."""
    return json.loads((folder / f"{name}.json").read_text())


def kept(name: str, config: dict[str, Any], make: Callable[[], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The result of a part that may have been made before: read where its config is this one, else made and saved."""
    config = json.loads(json.dumps(config))
    if (folder / f"{name}.json").exists() and (found := read(name, folder))["config"] == config:
        return found
    result = {"config": config, **make()}
    write(name, result, folder)
    return result


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean, from the spread of the values; None for a single one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))


def paired(values: Sequence[float], baseline: Sequence[float]) -> dict[str, float | int | None]:
    """The mean difference of values with the same seed, its standard error, and Student's two-sided p (None: n < 2)."""
    from scipy.stats import ttest_rel

    differences = [one - other for one, other in zip(values, baseline, strict=True)]
    alike = len(set(differences)) < 2  # one seed, or no difference at all: nothing to test
    return {
        "difference": statistics.fmean(differences),
        "difference_se": standard_error(differences),
        "p": None if alike else float(ttest_rel(values, baseline).pvalue),
        "n": len(differences),
    }


def _spelled(value: Any, indent: int = 0) -> str:
    """JSON with one line for each field."""
    if isinstance(value, dict) and value:
        inner = " " * (indent + 1)
        rows = [f"{inner}{json.dumps(str(key))}: {_spelled(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    return json.dumps(value, allow_nan=False)
