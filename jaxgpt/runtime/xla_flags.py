"""XLA's settings that must stand in the environment before JAX first computes."""

import os
import sys
import warnings
from importlib.metadata import version

FAULTY_JAXLIB = "0.10.2"
"""On CPUs it fuses a small product with the sum that follows, and one row of 32,769 comes out wrong (jax#39103). 0.10.1
and 0.11.0 are right; Python 3.11 gets nothing newer, and decoding with 0.10.1 takes twice as long."""
FLAG = "--xla_cpu_experimental_ynn_fusion_type"


def avoid_wrong_sums() -> None:
    """Switch off the fusion of sums in the one version of jaxlib that computes some of them wrongly.

    Products stay fused. Does nothing with other versions, or where XLA_FLAGS has this flag already. Warns where JAX has
    read its flags, so that the switch comes too late.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version("jaxlib") != FAULTY_JAXLIB or FLAG in flags:
        return
    os.environ["XLA_FLAGS"] = f"{flags} {FLAG}=-reduce".strip()
    if _jax_has_started():
        warnings.warn(
            f"jaxlib {FAULTY_JAXLIB} computes some sums wrongly on CPUs (jax#39103), and JAX was used before jaxgpt "
            f"could switch that off: set XLA_FLAGS={FLAG}=-reduce in the environment, or use jaxgpt first",
            stacklevel=3,
        )


def _jax_has_started() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")  # has no public name
    return bridge is not None and bridge.backends_are_initialized()
