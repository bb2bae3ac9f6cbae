"""How tokens are drawn, as a user says it; checked once, and then arrays with a row for each text."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt32

from jaxgpt.errors import UserError
from jaxgpt.inference.programs import Rules
from jaxgpt.inference.sampling import SMALLEST, Kind, Sampling


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a token is drawn from the model's probabilities."""

    temperature: float | int = 1.0
    """0: always the likeliest token. 1: as the model says."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float | int | None = None
    """Draw from the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    min_p: float | int | None = None
    """Draw from the tokens that are at least so likely, relative to the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float | int = 1.0
    """Divide the positive logits of tokens that the text has, multiply the negative ones (Keskar et al. 2019)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature={self.temperature} is below 0; 0 is greedy, 1 samples as the model says")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} keeps no token; use at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} is not a probability above 0, at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p} is not a probability from 0 to 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise UserError(f"repetition_penalty={self.repetition_penalty} must be above 0; 1 is none")

    @property
    def kind(self) -> Kind:
        """The least program that draws so."""
        if self.repetition_penalty != 1:
            return "filtered"
        if self.temperature < SMALLEST:
            return "greedy"
        return "temperature" if (self.top_k, self.top_p or 1, self.min_p or 0) == (None, 1, 0) else "filtered"


def make_rules(
    rows: int,
    settings: Sequence[Settings],
    seeds: UInt32[np.ndarray, "B 3"],
    stop_tokens: Sequence[int],
    num_tokens: int,
) -> Rules:
    """The settings of some texts as arrays of `rows`, at least as many; what is added is greedy."""
    padded = [*settings, *[Settings(temperature=0)] * (rows - len(settings))]
    most = np.iinfo(np.int32).max
    sampling = Sampling(
        np.array([one.temperature for one in padded], np.float32),
        np.array([min(one.top_k or most, most) for one in padded], np.int32),
        np.array([one.top_p or 1 for one in padded], np.float32),
        np.array([one.min_p or 0 for one in padded], np.float32),
        np.array([one.repetition_penalty for one in padded], np.float32),
    )
    stops = np.array([*stop_tokens, *[-1] * (_room(len(stop_tokens)) - len(stop_tokens))], np.int32)
    return Rules(sampling, np.pad(seeds, ((0, rows - len(seeds)), (0, 0))), stops, np.asarray(num_tokens, np.int32))


def row_seeds(seed: int | Sequence[int], rows: int) -> UInt32[np.ndarray, "B 3"]:
    """Row i draws by (seed, i), or by (seed[i], 0) where there is a seed for each row."""
    pairs = [(seed, i) for i in range(rows)] if isinstance(seed, int | np.integer) else [(one, 0) for one in seed]
    if len(pairs) != rows:
        raise UserError(f"{len(pairs)} seeds were given for {rows} prompts; give one, or one for each")
    words = [(int(one) & 0xFFFFFFFF, (int(one) >> 32) & 0xFFFFFFFF, number) for one, number in pairs]
    return np.array(words, np.uint32)


def kind_of(settings: Sequence[Settings]) -> Kind:
    """The least program that draws for all."""
    kinds = {one.kind for one in settings}
    return "filtered" if "filtered" in kinds else "temperature" if "temperature" in kinds else "greedy"


def _room(stops: int) -> int:
    return 1 if stops <= 1 else 8 * -(-stops // 8)
