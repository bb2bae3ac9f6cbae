"""What devices and the fabrics between them can do, by their data sheets: for predictions."""

from typing import Literal, NamedTuple

GPU = Literal["h100", "h200"]
Device = Literal["cpu", "h100", "h200"]
Fabric = Literal["nvlink", "infiniband", "ethernet"]


class Hardware(NamedTuple):
    """A device by its data sheet."""

    memory: int
    """Bytes."""
    flops: float
    """Dense bfloat16 operations per second."""
    bandwidth: float
    """Bytes of its memory read or written per second."""


HARDWARE: dict[GPU, Hardware] = {
    "h100": Hardware(80_000_000_000, 989e12, 3.35e12),
    "h200": Hardware(141_000_000_000, 989e12, 4.8e12),
}
BYTES_PER_SECOND: dict[Fabric, float] = {"nvlink": 450e9, "infiniband": 50e9, "ethernet": 12.5e9}
"""What a device can send: NVLink 4 in one direction, one 400 Gb/s adapter for each GPU, 100 Gb/s Ethernet."""
PEAKS = {
    "A100": 312e12,
    "H100 80GB HBM3": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H200": 989e12,
    "B200": 2250e12,
}
"""Dense bfloat16 operations per second, by a part of the name that the driver gives a device."""
USED_MEMORY = 0.92
"""Of a GPU's memory, the rest being the driver's, NCCL's and lost between buffers."""
UTILISATION = 0.45
"""Of the peak, assumed for arithmetic: what GPT-2 124M is predicted to reach on one H200."""


def overlapped(computing: float, sending: float) -> tuple[float, float]:
    """The part of a step that is computing, where it never overlaps with sending and where it always does."""
    return computing / (computing + sending), computing / max(computing, sending)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Operations per second of a device by its data sheet. None: not known, as for a CPU, or in another dtype.

    >>> peak_flops("NVIDIA H200", "bfloat16"), peak_flops("cpu", "bfloat16"), peak_flops("NVIDIA H200", "float32")
    (989000000000000.0, None, None)
    """
    if dtype != "bfloat16":
        return None
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)
