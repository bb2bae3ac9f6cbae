"""README and tutorial, followed to the letter in a terminal of 80x24, show what the committed transcript says."""

import pytest

from tests import newcomer
from tests.terminal import normalize, render


def test_the_transcript_has_every_command_of_readme_and_tutorial_in_their_order():
    assert [command.line for command in newcomer.transcript()] == newcomer.command_lines_to_type()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:os.fork")  # the shell takes the new process's place at once
def test_a_fresh_machine_shows_what_the_transcript_says(tmp_path, shakespeare):
    with newcomer.fresh_machine(tmp_path) as terminal:
        for wanted in newcomer.transcript():
            shown = newcomer.type_line(terminal, wanted.line).shown
            if wanted.line.startswith("jaxgpt generate"):  # the model's own words, after the prompt
                assert shown[:4] == wanted.shown[:4], wanted.line
                continue
            assert normalize(shown) == normalize(wanted.shown), wanted.line


def test_a_bar_that_is_drawn_again_is_shown_as_it_was_last():
    assert render("step 1\r\x1b[2Kstep 2\r\x1b[2Kdone\r\n") == "done"


def test_screens_are_alike_but_for_numbers_samples_and_breaks():
    wanted = "done in 1 min 3 s\n── sample of step 8, the best ──\nOne.\n──────\nwritten: a, 3.0 MB"
    assert normalize(wanted) == normalize(
        "done in 40 s\n── sample of step 9, the best ──\nTwo.\n──────\nwritten: a,\n21 kB"
    )
    assert normalize(wanted) != normalize(wanted.replace("done", "stopped"))
