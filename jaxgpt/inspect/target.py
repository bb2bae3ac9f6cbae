"""An H200 to compile for that is not here."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 device_memory_size: 150000000000
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 12 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
FOR_PALLAS = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
"""The same for Pallas kernels: with `jax.sharding.use_abstract_mesh`."""
AOT_XLA_FLAGS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
"""No autotuning: nothing can be timed where there is no GPU."""


def check_cuda_compiler() -> str | None:
    """Why nothing can be compiled for an NVIDIA GPU here; None: it can."""
    plugins = importlib.util.find_spec("jax_plugins")
    if plugins is None or importlib.util.find_spec("jax_plugins.xla_cuda13") is None:
        return "the CUDA compiler is not installed: pip install 'jaxgpt[gpu-compile]', or make gpu-report"
    return None


def h200(count: int = 1) -> list[jax.Device]:
    """Compile-only devices of one host."""
    topology = topologies.get_topology_desc("h200", platform="cuda", target_config=H200, topology=f"1x1x{count}")
    return list(topology.devices)


@contextmanager
def no_driver() -> Iterator[None]:
    """Within, JAX traces cuDNN attention without asking the driver, which is not here, for cuDNN's version."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    before = cudnn.check_cudnn_version
    cudnn.check_cudnn_version = lambda: 91200
    try:
        yield
    finally:
        cudnn.check_cudnn_version = before
