"""The same mathematics a second time: float64 NumPy with loops, sharing no code with the package."""

import math

import numpy as np


def attention(q, k, v, *, window, scale):
    """q [B, T, N, H]; k, v [B, T, K, H]. Each query and head by itself."""
    B, T, N, H = q.shape
    out = np.zeros((B, T, N, H))
    for b in range(B):
        for n in range(N):
            kv = n // (N // k.shape[2])
            for t in range(T):
                first = 0 if window is None else max(0, t - window + 1)
                scores = [scale * float(np.dot(q[b, t, n], k[b, s, kv])) for s in range(first, t + 1)]
                weights = np.exp(np.array(scores) - max(scores))
                for weight, s in zip(weights / weights.sum(), range(first, t + 1), strict=True):
                    out[b, t, n] += weight * v[b, s, kv]
    return out


def rotated(x, theta):
    """x [B, T, N, H], each pair (i, i + H/2) as a complex number times e^(i t theta^(-2i/H))."""
    H = x.shape[-1]
    out = np.empty_like(x)
    for t in range(x.shape[1]):
        for i in range(H // 2):
            turned = (x[:, t, :, i] + 1j * x[:, t, :, i + H // 2]) * np.exp(1j * t * theta ** (-2 * i / H))
            out[:, t, :, i], out[:, t, :, i + H // 2] = turned.real, turned.imag
    return out


def layer_norm(x, p, name, epsilon):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * p[f"{name}.scale"]
    return scaled + p.get(f"{name}.bias", 0)


ACTIVATIONS = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.where(x > 0, x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def gpt(config, parameters, tokens):
    """Logits [B, T, V] of the whole model from its parameters by name."""
    p = {name: np.asarray(value, np.float64) for name, value in parameters.items()}
    period = config.window if isinstance(config.window, tuple) else (config.window,)
    size = config.d_model // config.num_heads
    x = p["embed"][tokens]
    if config.position == "learned":
        x = x + p["position"][: tokens.shape[1]]
    for layer in range(config.num_layers):
        at = f"blocks.{layer}"
        h = layer_norm(x, p, f"{at}.attn_norm", config.layer_norm_epsilon)
        q, k, v = (
            np.einsum("btd,dnh->btnh", h, p[f"{at}.attn.{name}.kernel"]) + p.get(f"{at}.attn.{name}.bias", 0)
            for name in ("query", "key", "value")
        )
        if config.position == "rotary":
            q, k = rotated(q, config.rope_theta), rotated(k, config.rope_theta)
        scale = 1 / math.sqrt(size) / (layer + 1 if config.scale_attention_by_layer else 1)
        mixed = attention(q, k, v, window=period[layer % len(period)], scale=scale)
        x = x + np.einsum("btnh,nhd->btd", mixed, p[f"{at}.attn.out.kernel"]) + p.get(f"{at}.attn.out.bias", 0)
        h = layer_norm(x, p, f"{at}.mlp_norm", config.layer_norm_epsilon)
        wide = ACTIVATIONS[config.activation](h @ p[f"{at}.mlp.up.kernel"] + p.get(f"{at}.mlp.up.bias", 0))
        x = x + wide @ p[f"{at}.mlp.down.kernel"] + p.get(f"{at}.mlp.down.bias", 0)
    table = p["embed" if config.tie_embeddings else "head"][: config.vocab_size]
    return layer_norm(x, p, "norm", config.layer_norm_epsilon) @ table.T
