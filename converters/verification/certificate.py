"""What a verification measured, against stated bounds."""

import dataclasses
import json
import math

from rich.table import Table
from rich.text import Text

AT_MOST = {
    "float32": {
        "largest logit error": 2e-4,
        "largest logit error, relative": 2e-5,
        "KL divergence, nats per token": 1e-8,
        "largest gradient error, relative": 1e-4,
        "largest layer output error, relative": 1e-4,
    },
    "bfloat16": {
        "largest logit error, relative": 5e-2,
        "KL divergence, nats per token": 4e-3,
        "largest gradient error, relative": 5e-1,
        "largest layer output error, relative": 6e-2,
    },
}
AT_LEAST = {
    "float32": {"top-1 agreement": 0.999, "greedy tokens equal": 1.0, "greedy tokens equal, without cache": 1.0},
    "bfloat16": {"top-1 agreement": 0.8},
}
"""Bounds by what the model computes in.

Those of bfloat16, which has 8 bits of precision, are three times the worst of twelve random models whose logits have
a standard deviation of 4: the 124M shape, tiny ones, rotary, multi-query (relative logits 1.7e-2, KL 1.3e-3, layers
1.9e-2, 6 % of the top tokens changed). Gradients were off by 0.07; one of ReLU by 0.34, since inputs near zero are
rounded across the kink: hence 0.5. The largest logit error itself has no bound: it grows with the logits.
"""


@dataclasses.dataclass(frozen=True)
class Measure:
    """One number of a certificate, and what is asked of it."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the number is within its bound; NaN is not."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most) and not math.isnan(self.value)

    @property
    def bound(self) -> str:
        """The bound as it is printed."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return "" if self.at_least is None else f">= {self.at_least:g}"


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A comparison of one model here with the same model in transformers."""

    source: str
    against: str
    facts: dict[str, str]
    """What was compared, on what."""
    measures: tuple[Measure, ...]
    first_mismatch: str
    """The first layer whose output is out of bounds, and by how much."""

    @property
    def holds(self) -> bool:
        """Whether every number is within its bound."""
        return all(measure.holds for measure in self.measures)

    def to_json(self) -> str:
        """One JSON object."""
        measures = [dataclasses.asdict(measure) | {"holds": measure.holds} for measure in self.measures]
        return json.dumps(
            {"source": self.source, "against": self.against, "holds": self.holds, "facts": self.facts}
            | {"first mismatch": self.first_mismatch, "measures": measures},
            indent=2,
        )

    def to_markdown(self) -> str:
        """A table for a model card."""
        rows = [f"| {m.name} | {m.value:.3g} | {m.bound} | {_word(m.holds)} |" for m in self.measures]
        facts = "; ".join(f"{name}: {value}" for name, value in self.facts.items())
        return "\n".join([f"By `jaxgpt verify`: {facts}.", "", "| | measured | bound | |", "|---|---|---|---|", *rows])

    def to_table(self) -> Table:
        """A table for a terminal."""
        table = Table(
            "", "measured", "bound", "", title=Text(f"{self.source} here, and {self.against} in transformers")
        )
        for name, value in self.facts.items():
            table.add_row(name, Text(value))
        table.add_section()
        for measure in self.measures:
            table.add_row(measure.name, f"{measure.value:.3g}", measure.bound, _word(measure.holds))
        table.add_row("first mismatch", self.first_mismatch)
        return table


def bounded(values: dict[str, float], dtype: str) -> tuple[Measure, ...]:
    """Measures with the bounds of a dtype. Those without one are shown, and hold unless they are NaN."""
    most, least = AT_MOST[dtype], AT_LEAST[dtype]
    return tuple(Measure(name, value, most.get(name), least.get(name)) for name, value in values.items())


def _word(holds: bool) -> str:
    return "holds" if holds else "EXCEEDED"
