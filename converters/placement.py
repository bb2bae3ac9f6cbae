"""Where a loaded parameter lives."""

from jax.sharding import Mesh, NamedSharding, PartitionSpec


def sharding(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """The largest axis that the mesh's fsdp size divides is cut along it; without one, every device has a copy."""
    parts = mesh.shape.get("fsdp", 1)
    axes = [axis for axis, size in enumerate(shape) if parts > 1 and size % parts == 0]
    if not axes:
        return NamedSharding(mesh, PartitionSpec())
    cut = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*(None,) * cut, "fsdp"))
