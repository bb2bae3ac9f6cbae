"""What is computed while it is sent, read from the order of a program's instructions."""

import pytest

from jaxgpt.inspect.schedule import events, hidden_bytes, step_seconds

PROGRAM = """HloModule jit_step, is_scheduled=true

ENTRY %main (w: f32[32,64], x: f32[128,64]) -> f32[32,64] {
  %w = f32[32,64]{1,0} parameter(0)
  %x = f32[128,64]{1,0} parameter(1)
  %all-gather-start = (f32[32,64]{1,0}, f32[64,64]{1,0}) all-gather-start(%w), replica_groups={{0,1}}, dimensions={0}
  %all-gather-done = f32[64,64]{1,0} all-gather-done(%all-gather-start)
  %second-start = (f32[32,64]{1,0}, f32[64,64]{1,0}) all-gather-start(%w), replica_groups={{0,1}}, dimensions={0}
  %y = (f32[128,64]{1,0}, s8[4096]{0}) custom-call(%x, %all-gather-done), custom_call_target="__cublas$lt$matmul"
  %second-done = f32[64,64]{1,0} all-gather-done(%second-start)
  %dw = f32[64,64]{1,0} dot(%x, %x), lhs_contracting_dims={0}, rhs_contracting_dims={0}
  ROOT %scattered = f32[32,64]{1,0} reduce-scatter(%dw), replica_groups={{0,1}}, dimensions={0}, to_apply=%add
}
"""
WHOLE = 4 * 64 * 64


def test_a_product_between_start_and_end_hides_what_is_sent():
    assert hidden_bytes(events(PROGRAM)) == (WHOLE, 3 * WHOLE)
    early = PROGRAM.replace("  %second-done = f32[64,64]{1,0} all-gather-done(%second-start)\n", "")
    early = early.replace("  %y = ", "  %second-done = f32[64,64]{1,0} all-gather-done(%second-start)\n  %y = ")
    assert hidden_bytes(events(early)) == (0, 3 * WHOLE)


def test_a_step_waits_for_what_no_product_hides():
    flops, sent = 2 * 128 * 64 * 64, WHOLE / 2  # of each product, and by a device in a ring of two
    for slower in (0.5, 4):  # sending an array takes that many times a product
        computing, step = step_seconds(events(PROGRAM), flops, sent / slower)
        assert computing == pytest.approx(2)
        assert step == pytest.approx(2 + slower + max(0, slower - 1) + slower)


def test_a_loop_is_read_turn_by_turn():
    loop = """HloModule jit_step

%body (a: f32[8,8]) -> f32[8,8] {
  %a = f32[8,8]{1,0} parameter(0)
  ROOT %d = f32[8,8]{1,0} dot(%a, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  ROOT %w = f32[8,8]{1,0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""
    assert [event.flops for event in events(loop)] == [2 * 8**3] * 3
