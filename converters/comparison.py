"""What a change of config costs and saves, as a table."""

from rich.table import Table

from jaxgpt.config import GPTConfig
from jaxgpt.model.parameters import abstract_model, num_parameters

BYTES = {"float32": 4, "bfloat16": 2}


def comparison(before: GPTConfig, after: GPTConfig) -> Table:
    """Both configs where they differ, parameters, and the size of the key-value cache."""
    table = Table("", "before", "after", title="What was changed")
    old, new = before.to_dict(), after.to_dict()
    for name in old:
        if old[name] != new[name]:
            table.add_row(name, str(old[name]), str(new[name]))
    for label, number in (
        ("parameters", lambda config: num_parameters(abstract_model(config))),
        ("KV cache, bytes per token", cache_bytes_per_token),
        ("KV cache, bytes for a full context", cache_bytes),
    ):
        table.add_row(label, f"{number(before):,}", f"{number(after):,}")
    return table


def cache_bytes_per_token(config: GPTConfig) -> int:
    """Bytes of keys and values that one token leaves in the cache, over all layers."""
    return 2 * config.num_layers * config.kv_heads * config.head_dim * BYTES[config.dtype]


def cache_bytes(config: GPTConfig) -> int:
    """Bytes of the cache of a text of context_length tokens: a layer with a window keeps only so many."""
    slots = sum(min(window or config.context_length, config.context_length) for window in config.windows)
    return cache_bytes_per_token(config) // config.num_layers * slots
