"""What did the experiments find? One page of it, from the committed results.

    python -m experiments.report [--output experiments/report.html]

The page holds all it needs, Vega included: it opens from a disk without a network. It runs nothing: what a result
does not show, the page does not either.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments import draw, evidence, summary
from experiments.charts import CHARTS, Result, charts
from experiments.page import page
from experiments.sections import NAMES, sections

TITLE = "jaxgpt: what rotary positions, grouped heads and windows really change"


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Build the page and the figures."""

    output: Path = Path(__file__).parent / "report.html"
    """The page."""
    docs: bool = True
    """Write the section of docs/experiments.md too."""
    results: Path = evidence.RESULTS
    """Where the results are."""


def main(arguments: Arguments) -> None:
    """Write the page, each figure as PNG and SVG beside the results, and the section of docs/experiments.md."""
    found = results(arguments.results)
    if arguments.docs:
        summary.PAGE.write_text(summary.written(summary.PAGE.read_text(), found))
    arguments.output.write_text(page(TITLE, sections(found)))
    folder = arguments.results / "figures"
    figures = {chart.name: draw.draw(chart) for chart in charts(found)}
    if "variants-cpu" in found:
        figures["keys"] = draw.draw_keys(found["variants-cpu"])
    for name, figure in figures.items():
        draw.save_png(figure, name, folder)
        (folder / f"{name}.svg").write_text(draw.svg(figure))
    print(f"{arguments.output.name}: {arguments.output.stat().st_size / 1000:.0f} kB, {len(figures)} figures")


def results(folder: Path = evidence.RESULTS) -> dict[str, Result]:
    """All results that are there, by name."""
    names = [*CHARTS, *NAMES]
    return {name: evidence.read(name, folder) for name in names if (folder / f"{name}.json").exists()}


if __name__ == "__main__":
    main(tyro.cli(Arguments))
