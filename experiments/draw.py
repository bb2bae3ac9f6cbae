"""Charts by matplotlib, as SVG that follows the page's colours, and as PNG."""

import io
import re
from pathlib import Path

import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from experiments.charts import Chart, Result
from jaxgpt.ops.attention import causal_mask

FIGURES = Path(__file__).parent / "results" / "figures"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#bb8800", "#66ccee", "#aa3377", "#888888")
"""Told apart by colour-blind readers, on white and on black (Tol 2021)."""
INK = "#010203"
"""What becomes the page's own text colour."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxgpt",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def draw(chart: Chart) -> Figure:
    """The figure of a chart."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for series, colour in zip(chart.series, COLOURS, strict=False):
            error = None if series.error is None else [one or 0 for one in series.error]
            if chart.points:
                axes.errorbar(series.x, series.y, error, fmt="o", color=colour, capsize=3, label=series.name)
                continue
            axes.plot(series.x, series.y, color=colour, marker=".", linewidth=1.5, label=series.name)
            if error:
                axes.fill_between(
                    series.x,
                    np.subtract(series.y, error),
                    np.add(series.y, error),
                    color=colour,
                    alpha=0.2,
                    linewidth=0,
                )
        axes.set(xlabel=chart.x, ylabel=chart.y, title=chart.title)
        if "x" in chart.log:
            axes.set_xscale("log", base=2)
        if "y" in chart.log:
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
        figure.legend(loc="outside right center")
    return figure


def draw_keys(result: Result, length: int = 16) -> Figure:
    """Which keys each query sees (columns, rows), in how many layers; below, which key-value head each head reads."""
    rows = result["variants"]
    shrink = result["config"]["model"]["context_length"] // length
    steps = jnp.arange(length)[None]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.6), layout="constrained")
        for index, (name, row) in enumerate(rows.items()):
            windows = [None if window is None else window // shrink for window in row["windows"]]
            seen = np.mean([np.asarray(causal_mask(steps, steps, window))[0] for window in windows], axis=0)
            axes = figure.add_subplot(2, len(rows), index + 1)
            axes.imshow(np.ma.masked_equal(seen, 0), cmap="Blues", vmin=0, vmax=1.4)
            axes.set(xticks=[], yticks=[], title=name, **({"ylabel": "queries"} if index == 0 else {}))
            heads = result["config"]["model"]["num_heads"]
            below = figure.add_subplot(2, len(rows), len(rows) + index + 1)
            for head in range(heads):
                read = head * row["kv_heads"] // heads
                below.plot(
                    [head, (read + 0.5) * heads / row["kv_heads"] - 0.5], [1, 0], color=COLOURS[read], linewidth=2
                )
                below.plot(head, 1, "o", color=COLOURS[read])
                below.plot((read + 0.5) * heads / row["kv_heads"] - 0.5, 0, "s", color=COLOURS[read])
            below.set(xlim=(-0.6, heads - 0.4), ylim=(-0.4, 1.4), xticks=[])
            below.set_yticks([0, 1], ["KV heads", "heads"] if index == 0 else ["", ""])
            below.tick_params(length=0)
            below.set_frame_on(False)
    return figure


def svg(figure: Figure) -> str:
    """An SVG element in the page's own text colour, as wide as there is room."""
    with mpl.rc_context(STYLE), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r"\1", text)
    return re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", text, count=1)


def save_png(figure: Figure, name: str, folder: Path = FIGURES) -> Path:
    """For where SVG is not shown: on white, small."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=120, facecolor="white", metadata={"Software": None})
    return folder / f"{name}.png"
