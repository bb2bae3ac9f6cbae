"""Few programs serve every length."""

import dataclasses
import os
import subprocess
import sys

import jax
import pytest

from jaxgpt.config import GPTConfig
from jaxgpt.inference import buckets
from jaxgpt.inference.generate import generate
from jaxgpt.ops.platform import cpu_compiler_options
from tests.runs import ROOT
from tests.variants import BASELINE, VARIANTS, loud, text

LONG = dataclasses.replace(BASELINE, context_length=1024)


def programs(config: GPTConfig, prompt: int, new: int) -> set:
    """What is compiled for a prompt of one length that grows by so many tokens."""
    size = buckets.prompt_size(config, prompt)
    capacity = buckets.capacity(config, size, prompt + new)
    return {(size, capacity), (None, capacity)}


UNBOUNDED = dataclasses.replace(VARIANTS["all"], context_length=1024, window=(256, 64))


@pytest.mark.parametrize("config", [LONG, UNBOUNDED], ids=["bounded", "unbounded"])
def test_twelve_programs_serve_every_prompt_and_every_number_of_new_tokens(config):
    edges = sorted({max(1, 2**power + by) for power in range(11) for by in (-1, 0, 1)} - {1025})
    pairs = [(prompt, new) for prompt in edges for new in edges]
    if config.max_length is not None:
        pairs = [(prompt, new) for prompt, new in pairs if prompt + new <= 1024] + [(1, 1023), (1023, 1)]
    assert len(set().union(*(programs(config, *pair) for pair in pairs))) <= 12


@pytest.mark.parametrize("config", [BASELINE, LONG, *VARIANTS.values()], ids=str)
def test_a_bucket_holds_what_is_put_into_it(config):
    most = config.max_length or 3000
    for length in {1, 5, 31, 32, 63, 64, 65, 300, 512, 513, most} & set(range(1, most + 1)):
        size = buckets.prompt_size(config, length)
        assert length <= size <= most or config.max_length is None
        assert buckets.capacity(config, size, length) >= min(length, max(w or most for w in config.windows))


def test_rows_are_powers_of_two():
    assert [buckets.rows(count) for count in (1, 2, 3, 4, 5, 8, 9)] == [1, 2, 4, 4, 8, 8, 16]


@pytest.fixture
def compiled():
    """The names of the programs that are compiled meanwhile."""
    names = []

    def listen(event, seconds, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(details.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_new_lengths_compile_nothing(compiled):
    """Prompts, numbers of new tokens, rows and settings of one size share programs; so do pieces and slides."""
    model = loud(dataclasses.replace(BASELINE, vocab_size=59, num_layers=1))
    cpu_compiler_options(inference=True)
    compiled.clear()
    choices = ({"temperature": 0}, {"temperature": 0.3}, {"top_k": 3, "seed": 4}, {"top_p": 0.3, "min_p": 0.1})
    for prompt, new, rows in ((1, 3, 1), (7, 20, 1), (30, 50, 1), (5, 5, 3), (6, 12, 4)):
        for settings in choices:
            generate(model, text(model.config, prompt, rows), new, slide=True, **settings)
    assert len(compiled) == 2 * 2 * 3, compiled  # read and decode, 1 row and 4, greedy and temperature and filtered


SCRIPT = """
import jax, sys
missed = []
def listen(event, **details):
    if event.endswith("cache_misses"):
        missed.append(event)
jax.monitoring.register_event_listener(listen)
import numpy as np
from flax import nnx
from jaxgpt import GPT, GPTConfig, generate
shapes = jax.eval_shape(lambda: GPT(GPTConfig.preset("tiny", num_layers=1, dtype=sys.argv[1]), rngs=nnx.Rngs(0)))
model = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
generate(model, [[1, 2, 3], [4]], 9)
print(len(missed))
"""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_second_process_compiles_nothing(dtype, tmp_path):
    settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    missed = [
        int(subprocess.check_output([sys.executable, "-c", SCRIPT, dtype], cwd=ROOT, env=os.environ | settings))
        for _ in range(2)
    ]
    assert missed[0] >= 2
    assert missed[1] == 0
