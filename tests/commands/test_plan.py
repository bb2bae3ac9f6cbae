"""What `jaxgpt plan` says is what the run would be."""

import re

import pytest

from jaxgpt.commands.plan import Arguments, compile_plan
from jaxgpt.config import GPTConfig
from jaxgpt.inspect.collectives import by_kind, collectives, wire_bytes
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.inspect.hardware import overlapped
from jaxgpt.model.parameters import abstract_model, num_parameters
from jaxgpt.parallel.mesh import MeshConfig
from jaxgpt.parallel.sharding import bytes_per_device
from jaxgpt.training.config import TrainConfig
from jaxgpt.training.step import abstract_state
from tests.runs import start

TINY = TrainConfig.preset("tiny")


def printed(*arguments: object) -> tuple[int, dict[str, str], str]:
    process = start("plan", *arguments)
    out, err = process.communicate(timeout=120)
    return process.returncode, dict(re.split(r"\s+", line, maxsplit=1) for line in out.splitlines()), err


def test_a_plan_tells_mesh_memory_arithmetic_and_what_is_sent():
    code, rows, err = printed("tiny", "--devices", 4, "--mesh.fsdp", 4, "--batch-size", 8, "--microbatches", 2)
    assert (code, err) == (0, "")
    assert rows["mesh"] == "data 1 x fsdp 4, zero 3, remat none"
    assert rows["step"] == "256 tokens, 64 on each device, in 2 pieces"
    assert re.search(
        r"on each device: parameters [\d.]+ kB, optimizer [\d.]+ kB, activations and gradients", rows["memory"]
    )
    assert "fits" not in rows  # the memory of a CPU is not known
    assert re.fullmatch(
        r"[\d.]+ kB by each device: 1 all-reduce of .*, \d+ all-gather of .*, \d+ reduce-scatter of .*", rows["sent"]
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--device", "h200"), "--device h200: the CUDA compiler is not installed: pip install 'jaxgpt[gpu-compile]'"),
        (("--devices", 0), "--devices 0 must be at least 1"),
        (("--devices", 3), "batch_size=8 cannot be shared out to 3 devices in microbatches=1: make it a multiple of 3"),
        (("--devices", 8, "--mesh.data", 3), "leaves 5 of 8 devices idle"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(flags, message):
    code, _, err = printed("tiny", *flags)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("sizes", [(1, 1), pytest.param((8, 1), marks=pytest.mark.slow), (2, 4)])
def test_the_numbers_of_a_plan_are_those_of_the_run(sizes):
    mesh = MeshConfig(*sizes, allow_idle=True)
    plan = compile_plan(Arguments(TrainConfig(model=TINY.model, batch_size=8, mesh=mesh), devices=8))
    state = abstract_state(TrainConfig(model=TINY.model, batch_size=8, mesh=mesh), mesh.make())
    assert plan.parameters == bytes_per_device(state.model)
    assert plan.parameters + plan.optimizer == bytes_per_device(state)
    assert plan.needed > plan.parameters + plan.optimizer + plan.temporary
    assert plan.fits is None
    assert plan.flops == pytest.approx(
        flops_per_token(TINY.model) * 8 * TINY.model.context_length / (sizes[0] * sizes[1])
    )
    assert bool(plan.sent) == (sizes != (1, 1))


def test_flops_are_six_for_each_weight_and_twelve_widths_for_each_key_seen():
    config = GPTConfig()
    L, D, V, T = config.num_layers, config.d_model, config.vocab_size, config.context_length
    assert flops_per_token(config, causal=False) == 6 * (12 * L * D**2 + V * D) + 12 * L * T * D
    assert flops_per_token(config) == 6 * (12 * L * D**2 + V * D) + 6 * L * (T + 1) * D
    seen = [min(t + 1, 5) for t in range(32)]
    windowed, full = (GPTConfig.preset("tiny", window=window) for window in (5, None))
    assert flops_per_token(full) - flops_per_token(windowed) == pytest.approx(12 * 2 * 32 * (33 / 2 - sum(seen) / 32))
    grouped = GPTConfig.preset("tiny", num_kv_heads=1, bias=False)
    fewer = num_parameters(abstract_model(GPTConfig.preset("tiny", bias=False))) - num_parameters(
        abstract_model(grouped)
    )
    assert flops_per_token(full) - flops_per_token(grouped) == 6 * fewer


# Lines as XLA writes them for GPUs (asynchronous, combined; groups as axes of a mesh or as a table) and for CPUs.
PROGRAM = """
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} all-reduce(%p), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %r = (f32[4]{0}, f32[2,3]{1,0}) reduce-scatter(%x, %y), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
  %c = f32[8]{0} call(%z), to_apply=%inner
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]{0}) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %s = ((bf16[6,8]{1,0}), bf16[48,8]{1,0}) all-gather-start(%q), replica_groups=mesh['data'=1,'fsdp'=8] {'fsdp'}
  %d = bf16[48,8]{1,0} all-gather-done(%s)
  %g = ((f32[10]{0}), f32[10]{0}) all-reduce-start(%q), replica_groups=mesh['data'=2,'fsdp'=4] {'data','fsdp'}
}
"""


def test_collectives_are_read_with_their_bytes_their_groups_and_how_often_they_run():
    found = collectives(PROGRAM)
    assert [(each.kind, each.bytes, each.times, each.devices) for each in found] == [
        ("reduce-scatter", 4 * (4 * 4 + 4 * 6), 3, 4),  # the body's, by its whole arrays
        ("all-reduce", 4 * 8, 3, 4),
        ("all-gather", 2 * 48 * 8, 1, 8),
        ("all-reduce", 4 * 10, 1, 8),
    ]
    assert {kind: tuple(total) for kind, total in by_kind(found).items()} == {
        "all-reduce": (4, 3 * 32 + 40),
        "all-gather": (1, 768),
        "reduce-scatter": (3, 3 * 160),
    }
    # In a ring of n each device sends n - 1 of n parts, and for an all-reduce twice.
    assert wire_bytes(found) == pytest.approx(3 * 160 * 3 / 4 + 2 * 3 * 32 * 3 / 4 + 768 * 7 / 8 + 2 * 40 * 7 / 8)


def test_sending_costs_what_does_not_overlap():
    assert overlapped(3.0, 1.0) == (0.75, 1.0)
    assert overlapped(1.0, 4.0) == (0.2, 0.25)
