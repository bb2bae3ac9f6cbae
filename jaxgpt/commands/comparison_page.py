"""The page of `jaxgpt compare`: one HTML file that needs nothing else, and its curves as PNG."""

import html
import io
from pathlib import Path
from typing import Any

from jaxgpt.errors import UserError
from jaxgpt.training.metrics_file import read_metrics

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 } figure svg { width: 100%; height: auto; background: white }
"""
NOTE = (
    "Each document is scored by itself; ± is one standard error over documents. The difference is paired by document, "
    "so what is hard for all models cancels."
)


def write_page(
    folder: Path, sources: list[str], cells: tuple[list[str], list[list[str]]], changes: dict[str, list[str]]
) -> None:
    """Write index.html and loss.png. Raises UserError where matplotlib is missing or the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror}): name another folder") from None
    body = [f"<h1>{html.escape(' beside '.join(sources))}</h1>", html_table(*cells), f"<p>{NOTE}</p>"]
    figure = curves({source: read_metrics(Path(source)) for source in sources})
    if figure is not None:
        figure.savefig(folder / "loss.png", dpi=120, facecolor="white")
        text = io.StringIO()
        figure.savefig(text, format="svg")
        body.append(f"<h2>Loss</h2><figure>{text.getvalue()[text.getvalue().index('<svg') :]}</figure>")
    if changes:
        rows = [[name, *values] for name, values in changes.items()]
        body += ["<h2>What differs in the configs</h2>", html_table(["field", *sources], rows)]
    page = f'<!doctype html>\n<meta charset="utf-8"><title>jaxgpt compare</title><style>{STYLE}</style>\n'
    (folder / "index.html").write_text(page + "\n".join(body) + "\n", encoding="utf-8")


def curves(runs: dict[str, list[dict[str, Any]]]) -> Any:
    """Training loss, thin, and validation loss against steps. None: no source has any."""
    runs = {name: lines for name, lines in runs.items() if lines}
    if not runs:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"--output needs matplotlib ({error}): pip install 'jaxgpt[experiments]'") from None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, lines) in enumerate(runs.items()):
        for key, style in (("loss", {"linewidth": 0.7, "alpha": 0.5}), ("val_loss", {"marker": "."})):
            points = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), float)]
            label = f"{name}, validation" if key == "val_loss" else None
            axes.plot(*zip(*points, strict=True) if points else ([], []), color=f"C{number}", label=label, **style)
    axes.set(xlabel="step", ylabel="nats per token")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def html_table(head: list[str], rows: list[list[str]]) -> str:
    """A table; the first column names the row."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table><tr>{names}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
