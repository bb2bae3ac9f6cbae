"""One HTML page that needs nothing else: words, tables, still pictures, and the same pictures alive by Vega."""

import base64
import html
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.charts import Chart
from experiments.draw import COLOURS, draw, svg

ASSETS = Path(__file__).parent / "assets"


def page(title: str, body: Iterable[str]) -> str:
    """The whole page."""
    import vl_convert

    vega = base64.b64encode(zlib.compress(vl_convert.javascript_bundle().encode(), 9)).decode()
    script = (ASSETS / "page.js").read_text()
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
            f"<title>{html.escape(title)}</title>",
            f"<style>\n{(ASSETS / 'page.css').read_text()}</style>\n</head>\n<body>",
            f"<h1>{html.escape(title)}</h1>",
            *body,
            f'<script type="text/plain" id="vega">{vega}</script>\n<script>\n{script}</script>\n</body>\n</html>\n',
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> str:
    """A table that scrolls sideways where the screen is narrow; the first column names the row."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    cells = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    lines = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="scroll"><table class="{kind}"><tr>{names}</tr>\n{lines}</table></div>'


def figure(chart: Chart) -> str:
    """A chart: alive where scripts run, still otherwise."""
    spec = json.dumps(vega_lite(chart)).replace("</", "<\\/")
    return (
        f'<figure id="{chart.name}"><div class="live" data-spec="{chart.name}-spec"></div>'
        f'<div class="still">{svg(draw(chart))}</div><figcaption>{html.escape(chart.caption)}</figcaption>'
        f'<script type="application/json" id="{chart.name}-spec">{spec}</script></figure>'
    )


def vega_lite(chart: Chart) -> dict[str, Any]:
    """The chart as a Vega-Lite specification: a click in the legend shows one series, pointing shows the numbers."""
    values = [
        {"series": series.name, "x": x, "y": y, "low": y - (error or 0), "high": y + (error or 0)}
        for series in chart.series
        for x, y, error in zip(series.x, series.y, series.error or [None] * len(series.x), strict=True)
    ]
    names = [series.name for series in chart.series]
    scales = {axis: {"type": "log", "nice": False} if axis in chart.log else {"zero": False} for axis in "xy"}
    x = {"field": "x", "type": "quantitative", "title": chart.x, "scale": scales["x"]}
    y = {"type": "quantitative", "title": chart.y, "scale": scales["y"]}
    colour = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": names, "range": list(COLOURS[: len(names)])},
        "legend": {"orient": "bottom", "columns": 4},
    }
    opacity = {"condition": {"param": "chosen", "value": 1}, "value": 0.1}
    tooltip = [
        {"field": "series", "title": " "},
        {"field": "x", "title": chart.x, "format": ",.5~g"},
        {"field": "y", "title": chart.y, "format": ".5~g"},
    ]
    encoding = {"x": x, "color": colour, "opacity": opacity}
    line = {"type": "point", "filled": True, "size": 90} if chart.points else {"type": "line", "point": True}
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    spread = {"mark": {"type": "rule"} if chart.points else {"type": "errorband", "borders": False}}
    bounds = {"y": y | {"field": "low"}, "y2": {"field": "high"}}
    layers = [{**spread, "encoding": bounds}] if any(series.error for series in chart.series) else []
    main = {"mark": line, "params": [chosen], "encoding": {"y": y | {"field": "y"}, "tooltip": tooltip}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": chart.title,
        "width": "container",
        "height": 300,
        "data": {"values": values},
        "encoding": encoding,
        "layer": [*layers, main],
    }
