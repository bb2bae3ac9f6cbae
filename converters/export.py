"""Which architecture a model is exported as, and the same model with the parameters of that architecture."""

from collections.abc import Callable
from typing import Any

from converters.adapt import adapt_weights
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT

Rule = tuple[str, Callable[[GPTConfig], bool], str]

LEARNED: Rule = ("position", lambda c: c.position == "learned", "its positions are a learned table")
ROTARY: Rule = ("position", lambda c: c.position == "rotary", "its positions are rotary")
LEARNED_OR_ROTARY: Rule = ("position", lambda c: c.position != "none", "its positions are learned or rotary")
ONE_KEY_HEAD: Rule = ("num_kv_heads", lambda c: c.kv_heads == 1, "it has one key-value head")
NO_WINDOW: Rule = ("window", lambda c: c.windows[0] is None and len(set(c.windows)) == 1, "it has no window")
ONE_WINDOW: Rule = ("window", lambda c: len(set(c.windows)) == 1, "its window is the same in every layer")
PLAIN_SCALE: Rule = (
    "scale_attention_by_layer",
    lambda c: not c.scale_attention_by_layer,
    "its scores are not scaled by layer",
)

TIED: Rule = ("tie_embeddings", lambda c: c.tie_embeddings, "its head is the embedding table")
FOUR_WIDE: Rule = ("d_mlp", lambda c: c.mlp_width == 4 * c.d_model, "its feed-forward layer is 4 x d_model wide")
PLAIN_EPSILON: Rule = ("layer_norm_epsilon", lambda c: c.layer_norm_epsilon == 1e-5, "its epsilon is 1e-5")
EXACT_GELU: Rule = (
    "activation",
    lambda c: c.activation == "gelu",
    "its activation is the exact gelu (--activation gelu switches to it; outputs change a little)",
)
TANH_GELU: Rule = (
    "activation",
    lambda c: c.activation == "gelu_tanh",
    "its activation is gelu_tanh (--activation gelu_tanh switches to it; outputs change a little)",
)
PLAIN_GPT2 = (LEARNED, NO_WINDOW, PLAIN_SCALE, TIED, FOUR_WIDE, PLAIN_EPSILON)

RULES: dict[str, tuple[Rule, ...]] = {
    "gpt_bigcode": (LEARNED, ONE_KEY_HEAD, NO_WINDOW, PLAIN_SCALE),
    "gpt2": (LEARNED, NO_WINDOW),
    "starcoder2": (ROTARY, ONE_WINDOW, PLAIN_SCALE),
    "nanogpt": (*PLAIN_GPT2, EXACT_GELU),
    "llm.c": (*PLAIN_GPT2, TANH_GELU),
    "gguf": (LEARNED_OR_ROTARY, NO_WINDOW, PLAIN_SCALE, TANH_GELU),
    "jaxgpt": (),
}
"""What an architecture asks of a config: our field, whether it holds, what the architecture is like instead."""
AUTO = ("gpt_bigcode", "gpt2", "starcoder2")
KEEPS_GROUPS = ("gpt_bigcode", "starcoder2", "gguf", "jaxgpt")
KEEPS_MISSING_BIASES = ("nanogpt", "jaxgpt")


def select_architecture(config: GPTConfig, asked: str = "auto") -> str:
    """The architecture asked for, or the smallest that can hold the model.

    Multi-query is exported as gpt_bigcode, other learned positions as gpt2 (grouped heads repeated), rotary as
    starcoder2.
    Raises UserError that names the fields which stand in the way.
    """
    if asked != "auto" and asked not in RULES:
        raise UserError(f"architecture={asked!r} is not one of auto, {', '.join(RULES)}")
    # One query head and one key-value head are a plain gpt2.
    tried = [asked] if asked != "auto" else [kind for kind in AUTO if (kind, config.num_heads) != ("gpt_bigcode", 1)]
    problems = {kind: _problems(config, kind) for kind in tried}
    for kind, found in problems.items():
        if not found:
            return kind
    reasons = "\n  ".join(f"{kind}: {'; '.join(found)}" for kind, found in problems.items())
    raise UserError(
        "this model cannot be exported so; change the fields that stand in the way, or write our own layout "
        f"(--architecture jaxgpt), which holds any model:\n  {reasons}"
    )


def export_weights(model: GPT, kind: str) -> GPT:
    """A model that computes the same with the parameters that the architecture asks for."""
    changes: dict[str, Any] = {} if model.config.bias or kind in KEEPS_MISSING_BIASES else {"bias": True}
    if kind not in KEEPS_GROUPS and model.config.kv_heads < model.config.num_heads:
        changes["num_kv_heads"] = model.config.num_heads
    return adapt_weights(model, **changes) if changes else model


def _problems(config: GPTConfig, kind: str) -> list[str]:
    return [
        f"{name}={getattr(config, name)!r}, but {instead}" for name, holds, instead in RULES[kind] if not holds(config)
    ]
