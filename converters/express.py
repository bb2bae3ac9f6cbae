"""Which architecture of transformers a model leaves as, and the same model in that architecture's terms."""

from collections.abc import Callable
from typing import Any

from converters.surgery import operate
from jaxgpt.config import GPTConfig
from jaxgpt.model.gpt import GPT

Rule = tuple[str, Callable[[GPTConfig], bool], str]

LEARNED: Rule = ("position", lambda c: c.position == "learned", "its positions are a learned table")
ROTARY: Rule = ("position", lambda c: c.position == "rotary", "its positions are rotary")
ONE_KEY_HEAD: Rule = ("num_kv_heads", lambda c: c.kv_heads == 1, "it has one key-value head")
NO_WINDOW: Rule = ("window", lambda c: c.windows[0] is None and len(set(c.windows)) == 1, "it has no window")
ONE_WINDOW: Rule = ("window", lambda c: len(set(c.windows)) == 1, "its window is the same in every layer")
PLAIN_SCALE: Rule = (
    "scale_attention_by_layer",
    lambda c: not c.scale_attention_by_layer,
    "its scores are not scaled by layer",
)

RULES: dict[str, tuple[Rule, ...]] = {
    "gpt_bigcode": (LEARNED, ONE_KEY_HEAD, NO_WINDOW, PLAIN_SCALE),
    "gpt2": (LEARNED, NO_WINDOW),
    "starcoder2": (ROTARY, ONE_WINDOW, PLAIN_SCALE),
}
"""What an architecture asks of a config: our field, whether it holds, what the architecture is like instead."""


def choose_architecture(config: GPTConfig, asked: str = "auto") -> str:
    """The architecture asked for, or the leanest that expresses the model.

    Multi-query leaves as gpt_bigcode, other learned positions as gpt2 (grouped heads repeated), rotary as starcoder2.
    Raises ValueError that names the fields which stand in the way.
    """
    if asked != "auto" and asked not in RULES:
        raise ValueError(f"architecture={asked!r} is not one of auto, {', '.join(RULES)}")
    tried = list(RULES) if asked == "auto" else [asked]
    if asked == "auto" and config.num_heads == 1:
        tried.remove("gpt_bigcode")  # one head of each is a plain gpt2
    problems = {kind: _problems(config, kind) for kind in tried}
    for kind, found in problems.items():
        if not found:
            return kind
    reasons = "\n  ".join(f"{kind}: {'; '.join(found)}" for kind, found in problems.items())
    raise ValueError(
        "no architecture of transformers is this model; "
        f"change what stands in the way, or keep it as a run:\n  {reasons}"
    )


def expressed(model: GPT, kind: str) -> GPT:
    """A model that computes the same with the parameters that the architecture asks for."""
    changes: dict[str, Any] = {} if model.config.bias else {"bias": True}
    if kind == "gpt2" and model.config.kv_heads < model.config.num_heads:
        changes["num_kv_heads"] = model.config.num_heads
    return operate(model, **changes) if changes else model


def _problems(config: GPTConfig, kind: str) -> list[str]:
    return [
        f"{name}={getattr(config, name)!r}, but {instead}" for name, holds, instead in RULES[kind] if not holds(config)
    ]
