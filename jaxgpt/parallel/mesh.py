"""The devices as a grid of (data, fsdp)."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxgpt.errors import UserError
from jaxgpt.fields import check_types

if TYPE_CHECKING:  # configs are read before jax is imported
    import jax

DATA, FSDP = "data", "fsdp"


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The devices as a grid. data copies the model (DDP), fsdp shards it (FSDP, ZeRO); both share out the batch.

    Sources: Rajbhandari et al. 2020 (ZeRO), Zhao et al. 2023 (PyTorch FSDP). Raises UserError where a size is neither
    -1 nor at least 1, or both are -1.

    Example:
        >>> from jaxgpt import MeshConfig
        >>> MeshConfig(fsdp=4).sizes(devices=8)
        (2, 4)
    """

    data: int = -1
    """Copies of the model; -1: as many as there are devices for."""
    fsdp: int = 1
    """Devices that share one copy; -1: as many as there are devices for."""
    allow_idle: bool = False
    """Whether devices may be left out."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("data", "fsdp"):
            if getattr(self, name) < 1 and getattr(self, name) != -1:
                raise UserError(f"mesh.{name}={getattr(self, name)} must be at least 1, or -1 for what remains")
        if self.data == self.fsdp == -1:
            raise UserError("mesh.data and mesh.fsdp are both -1: only one of them can be what remains")

    def sizes(self, devices: int) -> tuple[int, int]:
        """Data and fsdp on so many devices. Raises UserError where the grid does not fit."""
        known = self.fsdp if self.data == -1 else self.data
        if -1 in (self.data, self.fsdp) and (devices < known or (devices % known and not self.allow_idle)):
            raise UserError(
                f"mesh.data={self.data} x mesh.fsdp={self.fsdp} does not fit {devices} devices: "
                f"{known} does not divide them; choose a divisor"
            )
        data, fsdp = (devices // known if size == -1 else size for size in (self.data, self.fsdp))
        if data * fsdp > devices:
            raise UserError(f"mesh.data={data} x mesh.fsdp={fsdp} needs {data * fsdp} devices, and there are {devices}")
        if data * fsdp < devices and not self.allow_idle:
            raise UserError(
                f"mesh.data={data} x mesh.fsdp={fsdp} leaves {devices - data * fsdp} of {devices} devices idle: "
                "use -1 for one of them, or say --mesh.allow-idle (in Python: give devices=)"
            )
        return data, fsdp

    def make(self, devices: "Sequence[jax.Device] | None" = None) -> "jax.sharding.Mesh":
        """The mesh on these devices, or on all. Raises UserError where the grid does not fit them."""
        import jax
        import numpy as np
        from jax.sharding import AxisType, Mesh

        devices = jax.devices() if devices is None else devices
        data, fsdp = self.sizes(len(devices))
        grid = np.array(devices[: data * fsdp]).reshape(data, fsdp)
        return Mesh(grid, (DATA, FSDP), axis_types=(AxisType.Auto, AxisType.Auto))


def make_mesh(data: int = -1, fsdp: int = 1, devices: "Sequence[jax.Device] | None" = None) -> "jax.sharding.Mesh":
    """A mesh of axes (data, fsdp): data copies the model (DDP), fsdp shards it (FSDP); both share out the batch.

    -1 is as many as there are devices for, of `devices` or of all. Raises UserError where the grid does not use them.

    >>> import jax
    >>> dict(make_mesh(data=1, devices=jax.devices()[:1]).shape)
    {'data': 1, 'fsdp': 1}
    """
    return MeshConfig(data, fsdp).make(devices)


def one_device() -> "jax.sharding.Mesh":
    """A mesh of the first device alone."""
    return MeshConfig(data=1, allow_idle=True).make()


def check_batch(batch_size: int, devices: int, microbatches: int = 1) -> None:
    """Raise UserError where a batch cannot be shared out to so many devices in equal microbatches."""
    if batch_size % (devices * microbatches):
        raise UserError(
            f"batch_size={batch_size} cannot be shared out to {devices} devices in microbatches={microbatches}: "
            f"make it a multiple of {devices * microbatches}, or use fewer devices (--mesh.data 1 --mesh.allow-idle)"
        )
