"""How much arithmetic a model is."""

from jaxgpt.config import GPTConfig


def flops_per_token(config: GPTConfig, *, causal: bool = True, frozen: bool = False) -> float:
    """Floating-point operations of training on one token: forward, and twice that backward.

    Counted are the products with weights, 6 for each weight, and the products of attention, 12 D for each key that a
    query sees. With causal=False every query counts all keys, as PaLM's utilisation does (Chowdhery et al. 2022,
    appendix B). Norms, softmax and nonlinearities are left out. Where weights are frozen, as under adapters, the
    products that are their gradients are not made: 4 for each weight.
    """
    heads = config.num_heads * config.head_dim
    kv_heads = config.kv_heads * config.head_dim
    per_layer = config.d_model * (2 * heads + 2 * kv_heads) + 2 * config.d_model * config.mlp_width
    weights = config.num_layers * per_layer + config.vocab_size * config.d_model
    keys = sum(
        _mean_keys(config.context_length, window) if causal else config.context_length for window in config.windows
    )
    return float((4 if frozen else 6) * weights + 12 * heads * keys)


def _mean_keys(length: int, window: int | None) -> float:
    """How many keys a query sees, averaged over a text of `length` tokens."""
    if window is None or window >= length:
        return (length + 1) / 2
    return window - window * (window - 1) / 2 / length
