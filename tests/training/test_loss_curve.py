"""The losses of a run, as a person sees them."""

import io
import json

import pytest
from PIL import Image, ImageColor
from rich.console import Console

from jaxgpt.training.loss_curve import ASCII, BLOCKS, SIZE, TRAIN, VALIDATION, read_losses, show_losses, sparkline


def console(encoding: str) -> Console:
    return Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), highlight=False)


def printed(console: Console) -> str:
    console.file.flush()
    return console.file.buffer.getvalue().decode(console.encoding)


@pytest.fixture
def run(tmp_path):
    """A run whose training loss falls from 6 to 2 on the way to step 40, with a step that was not finite."""
    lines = [{"step": 0, "val_loss": 6.1}]
    lines += [{"step": step, "loss": 6 - step / 10} for step in range(1, 41)]
    lines[20]["loss"], lines[20]["val_loss"], lines[-1]["val_loss"] = None, 4.0, 2.1
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


@pytest.mark.parametrize(("encoding", "heights"), [("utf-8", BLOCKS), ("ascii", ASCII), ("cp1252", ASCII)])
def test_the_sparkline_is_in_characters_that_the_terminal_has(run, encoding, heights):
    out = console(encoding)
    show_losses(run, out)
    name, first, line, last = printed(out).split()
    assert (name, first, last) == ("loss", "5.900", "2.000")
    assert (line[0], line[-1]) == (heights[-1], heights[0])
    places = [heights.index(character) for character in line]
    assert places == sorted(places, reverse=True)
    assert len(line) == 39  # one a number


def test_many_numbers_are_averaged_and_equal_ones_are_flat():
    assert sparkline([1.0] * 1000, ASCII) == ASCII[0] * 40
    assert sparkline([0.0, 8.0] * 500 + [8.0] * 1000, ASCII, width=4) == "__##"


def test_the_picture_has_both_losses(run):
    show_losses(run, console("utf-8"))
    with Image.open(run / "loss.png") as picture:
        assert picture.size == SIZE
        colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert {ImageColor.getrgb(colour) for colour in (TRAIN, VALIDATION)} <= colours
    assert sorted(path.name for path in run.iterdir()) == ["loss.png", "metrics.jsonl"]


def test_what_is_not_finite_is_left_out(run):
    losses = read_losses(run)
    assert 20 not in dict(losses.train)
    assert losses.validation == [(0, 6.1), (20, 4.0), (40, 2.1)]


def test_a_folder_that_cannot_be_written_ends_no_run(run):
    (run / "loss.part").mkdir()
    out = console("utf-8")
    show_losses(run, out)
    assert "the curve of the loss cannot be drawn" in printed(out)


def test_a_run_without_steps_has_no_curve(tmp_path):
    out = console("utf-8")
    show_losses(tmp_path, out)
    assert (printed(out), list(tmp_path.iterdir())) == ("", [])


def test_a_damaged_line_costs_no_curve(run):
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\n\xff\xfe\n5\n{"step": 50, "lo')
    assert read_losses(run).validation == [(0, 6.1), (20, 4.0), (40, 2.1)]
