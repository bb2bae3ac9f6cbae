"""Memory while loading: what arrives on the devices, and little more."""

import json
import math
import subprocess
import sys

import pytest

from converters.architectures import GPT2, sizes
from converters.hf_config import config_to_hf
from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import abstract_model, named_parameters

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")

LOAD = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from converters import load_pretrained

def memory(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

mesh = jax.make_mesh((1, 8), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
jax.device_put(0.0, mesh.devices.flat[7])
before = memory("VmRSS")
model = load_pretrained(sys.argv[1], mesh=mesh)
shards = sum(shard.data.nbytes for leaf in jax.tree.leaves(model) for shard in leaf.addressable_shards)
print(shards, memory("VmHWM") - before)
"""


def write_zeros(folder, config):
    """A safetensors file of zeros, which takes no space on the disk."""
    header, end = {}, 0
    for row in GPT2.rows(config, named_parameters(abstract_model(config))):
        shape = row.layout.shape(sizes(config))
        start, end = end, end + 4 * math.prod(shape)
        header[row.theirs] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)
    (folder / "config.json").write_text(json.dumps(config_to_hf(config, "gpt2", "float32", {})))


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(vocab_size=8000, num_layers=8),
        pytest.param(GPTConfig.preset("gpt2-xl"), marks=pytest.mark.slow),
    ],
    ids=["8 layers", "gpt2-xl"],
)
def test_loading_needs_little_more_than_what_arrives(tmp_path, config):
    write_zeros(tmp_path, config)
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], check=True, capture_output=True, text=True)
    shards, peak = map(int, done.stdout.split())
    print(f"\n{shards / 1e9:.2f} GB of shards, peak above the base line {peak / 1e9:.2f} GB, {peak / shards:.2f} times")
    assert peak < 1.2 * shards + 100e6  # the rest is buffers, whatever the model's size
