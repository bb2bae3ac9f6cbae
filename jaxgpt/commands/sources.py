"""Models that several commands read."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxgpt.model.gpt import GPT


def load_on_all_devices(source: str | Path, step: str | int = "latest", **changes: Any) -> "GPT":
    """The model of a source, with a copy on every device."""
    import jax

    from jaxgpt.loading import load
    from jaxgpt.parallel.mesh import MeshConfig
    from jaxgpt.parallel.sharding import shard

    if step != "latest":
        changes["step"] = step
    model = load(source, **changes)
    return model if jax.device_count() == 1 else shard(model, MeshConfig().make())
