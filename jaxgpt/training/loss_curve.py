"""The losses of a run, as a line of the terminal and as loss.png."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from jaxgpt.runtime.processes import is_main_process
from jaxgpt.training.metrics_file import read_metrics

Points = list[tuple[int, float]]
"""(step, nats per token)."""

BLOCKS, ASCII = "▁▂▃▄▅▆▇█", "_.-~=+*#"
SPARKLINE = 40
"""Characters of a sparkline."""


class Losses(NamedTuple):
    """What metrics.jsonl says of the loss."""

    train: Points
    validation: Points


def show_losses(folder: Path, console: Console) -> None:
    """Print the losses of a run as a sparkline, and draw them into its loss.png. A run does not fail by either."""
    if not is_main_process():
        return
    try:
        losses = read_losses(folder)
        if len(losses.train) > 1:
            line = sparkline([loss for _, loss in losses.train], characters(console.encoding))
            console.print(f"loss    {losses.train[0][1]:.3f} {line} {losses.train[-1][1]:.3f}", soft_wrap=True)
            draw(losses, folder / "loss.png")
    except OSError as error:
        console.print(f"the curve of the loss cannot be drawn ({error})", soft_wrap=True)


def read_losses(folder: Path) -> Losses:
    """The losses of a run; numbers that are not finite, which its metrics.jsonl has as null, are left out."""
    lines = read_metrics(folder)
    found = (
        [(line["step"], line[name]) for line in lines if line.get(name) is not None] for name in ("loss", "val_loss")
    )
    return Losses(*found)


def characters(encoding: str) -> str:
    """Eight heights, of blocks where the terminal can show them."""
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def sparkline(numbers: Sequence[float], heights: str = BLOCKS, width: int = SPARKLINE) -> str:
    """The numbers as so many characters, each the mean of its share, between their least and their greatest.

    >>> sparkline([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    '█▇▆▅▄▃▂▁'
    """
    width = min(width, len(numbers))
    cuts = [len(numbers) * part // width for part in range(width + 1)]
    means = [sum(numbers[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, span = min(means), max(means) - min(means) or 1.0
    return "".join(heights[min(int((mean - low) / span * len(heights)), len(heights) - 1)] for mean in means)


SIZE, MARGIN, SCALE = (720, 420), (60, 20, 20, 46), 2
"""Width and height; left, top, right, bottom; and how much larger it is drawn, so that lines are smooth."""
TRAIN, VALIDATION, GREY = "#4c78a8", "#e4572e", "#888888"


def draw(losses: Losses, path: Path) -> None:
    """A picture of both losses over the steps, written whole or not at all."""
    from PIL import Image, ImageDraw, ImageFont

    (width, height), (left, top, right, bottom) = SIZE, MARGIN
    picture = Image.new("RGB", (SCALE * width, SCALE * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13 * SCALE)
    values = [loss for points in losses for _, loss in points]
    last = max(step for points in losses for step, _ in points)
    rows, columns = ticks(min(values), max(values)), ticks(0, last)
    low, high = min(*values, *rows), max(*values, *rows)

    def place(step: float, loss: float) -> tuple[float, float]:
        x = left + (width - left - right) * step / max(last, 1)
        y = top + (height - top - bottom) * (high - loss) / (high - low or 1)
        return SCALE * x, SCALE * y

    for loss in rows:
        pen.line([place(0, loss), place(last, loss)], "#dddddd", SCALE)
        pen.text((SCALE * (left - 8), place(0, loss)[1]), f"{loss:g}", GREY, font, "rm")
    for step in columns:
        pen.text((place(step, low)[0], SCALE * (height - bottom + 8)), f"{step:g}", GREY, font, "mt")
    pen.text((SCALE * (width + left - right) / 2, SCALE * (height - 6)), "step", GREY, font, "mb")
    pen.text((SCALE * left, SCALE * (top - 14)), "nats per token", GREY, font, "lt")
    for points, colour, name in zip(losses, (TRAIN, VALIDATION), ("training", "held back")):
        pen.line([place(*point) for point in points], colour, 2 * SCALE, joint="curve")
        if points:
            where = SCALE * (top + 8 + 20 * (colour == VALIDATION))
            pen.text((SCALE * (width - right - 8), where), f"{name} {points[-1][1]:.3f}", colour, font, "rt")
    for point in losses.validation:
        x, y = place(*point)
        pen.ellipse([x - 3 * SCALE, y - 3 * SCALE, x + 3 * SCALE, y + 3 * SCALE], VALIDATION)
    draft = path.with_suffix(".part")
    picture.resize(SIZE, Image.Resampling.LANCZOS).save(draft, "PNG")
    draft.replace(path)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`.

    >>> ticks(1.9, 7.7)
    [2.0, 4.0, 6.0]
    """
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-9)))
    step = next(step * each for each in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (step * each) <= most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]
