"""Where downloads, tokens and compiled programs are kept between runs, and where runs go by default."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """$JAXGPT_CACHE, or the system's place for a user's caches."""
    return Path(os.environ.get("JAXGPT_CACHE") or user_cache_path("jaxgpt"))


def programs_folder() -> str:
    """Where compiled programs are kept, for JAX's settings."""
    return str(cache_folder() / "programs")


def runs_folder() -> Path:
    """$JAXGPT_RUNS, or runs in the current folder."""
    return Path(os.environ.get("JAXGPT_RUNS") or "runs")
