"""Models and texts that several commands read."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgpt.errors import UserError

if TYPE_CHECKING:
    from jaxgpt.loading import Step
    from jaxgpt.model.gpt import GPT


def load_on_all_devices(source: str | Path, step: "Step" = "latest", **changes: Any) -> "GPT":
    """The model of a source, with a copy on every device."""
    import jax

    from jaxgpt.loading import load
    from jaxgpt.parallel.mesh import MeshConfig

    return load(source, step=step, mesh=None if jax.device_count() == 1 else MeshConfig().make(), **changes)


def read_text(named: str, path: Path) -> str:
    """The text of a file that was named by a flag. Raises UserError where it cannot be read."""
    try:
        kind = path.expanduser().stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe may never end
            raise UserError(f"{named}: it is a pipe or device, not a file; copy its text to a file first")
        return path.expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{named}: {error.strerror}; name a text file") from None
    except UnicodeDecodeError:
        raise UserError(f"{named}: the file is not text in UTF-8; convert it") from None
