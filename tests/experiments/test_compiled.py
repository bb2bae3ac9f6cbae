from experiments.compiled import traffic

PROGRAM = """HloModule jit_f, is_scheduled=true

ENTRY %main (a: f32[10], b: f32[20], c: f32[30], d: f32[40], e: f32[50], /*index=5*/g: f32[60]) -> f32[70] {
  %a = f32[10]{0} parameter(0)
  %b = f32[20]{0} parameter(1)
  %c = f32[30]{0} parameter(2)
  %d = f32[40]{0} parameter(3)
  %e = f32[50]{0} parameter(4)
  %g = f32[60]{0} parameter(5)
  ROOT %k = f32[70]{0} custom-call(%a, %b, %c, %d, %e, /*index=5*/%g), custom_call_target="kernel"
}
"""
IN_PLACE = """HloModule jit_f, is_scheduled=true

ENTRY %main (a: f32[10], b: f32[1000]) -> (f32[20], f32[1000]) {
  %a = f32[10]{0} parameter(0)
  %b = f32[1000]{0} parameter(1)
  ROOT %k = (f32[20]{0}, f32[1000]{0}) custom-call(%a, %b), output_to_operand_aliasing={{1}: (1, {})}
}
"""


def test_every_operand_is_read_and_every_result_written():
    million = traffic(PROGRAM.replace("]", "000000]"))
    assert million.gigabytes == round(4e6 * sum(range(10, 80, 10)) / 1e9, 3)


def test_what_a_kernel_changes_in_place_is_not_all_of_its_operand():
    assert traffic(IN_PLACE.replace("]", "000000]")).gigabytes == round(4e6 * (10 + 20) / 1e9, 3)
