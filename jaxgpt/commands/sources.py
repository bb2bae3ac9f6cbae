"""Models that several commands read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgpt.loading import Step
    from jaxgpt.model.gpt import GPT


def load_on_all_devices(source: str | Path, step: "Step" = "latest", **changes: Any) -> "GPT":
    """The model of a source, with a copy on every device."""
    import jax

    from jaxgpt.loading import load
    from jaxgpt.parallel.mesh import MeshConfig

    return load(source, step=step, mesh=None if jax.device_count() == 1 else MeshConfig().make(), **changes)
