"""What a variant is and what it costs, from its config alone: nothing here is measured."""

import dataclasses
from typing import Any

from converters.comparison import cache_bytes, cache_bytes_per_token
from jaxgpt.config import GPTConfig
from jaxgpt.inspect.flops import flops_per_token
from jaxgpt.model.parameters import abstract_model, num_parameters


def variants(model: GPTConfig, kv_heads: tuple[int, ...], window: int) -> dict[str, GPTConfig]:
    """The baseline, each switch alone, and all together (rotary, the first of kv_heads, a window in every layer)."""
    changes: dict[str, dict[str, Any]] = {
        "baseline": {},
        "rotary": {"position": "rotary"},
        **{f"grouped-{heads}": {"num_kv_heads": heads} for heads in kv_heads},
        "windowed": {"window": window},
        "alternating": {"window": (window, None)},
        "all": {"position": "rotary", "num_kv_heads": kv_heads[0], "window": window},
    }
    return {name: dataclasses.replace(model, **change) for name, change in changes.items()}


def costs(config: GPTConfig, baseline: GPTConfig) -> dict[str, Any]:
    """Exact parameters and their difference, FLOPs of training on a token, bytes of the key-value cache."""
    parameters = num_parameters(abstract_model(config))
    return {
        "position": config.position,
        "kv_heads": config.kv_heads,
        "windows": list(config.windows),
        "parameters": parameters,
        "parameters_difference": parameters - num_parameters(abstract_model(baseline)),
        "flops_per_token": flops_per_token(config),
        "cache_bytes_per_token": cache_bytes_per_token(config),
        "cache_bytes_full_context": cache_bytes(config),
    }


def gpt2_costs() -> dict[str, dict[str, Any]]:
    """The same for GPT-2 124M, 4 and 1 of 12 key-value heads, a window of 256 of 1024."""
    baseline = GPTConfig.preset("gpt2")
    return {name: costs(config, baseline) for name, config in variants(baseline, (4, 1), 256).items()}
