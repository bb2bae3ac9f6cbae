"""config.json and GPTConfig: one table per architecture, read in both directions.

A field that transformers' model class does not read is ignored here as there; one that it reads and our model cannot
honour is an error that names it.
"""

from typing import Any

from jaxgpt.config import GPTConfig

Fields = dict[str, Any]

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Their name, ours; the first of several is the one written."""

# Their field, our field, the value where config.json leaves it out.
TABLES: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "gpt2": (
        ("vocab_size", "vocab_size", 50257),
        ("n_positions", "context_length", 1024),
        ("n_layer", "num_layers", 12),
        ("n_head", "num_heads", 12),
        ("n_embd", "d_model", 768),
        ("n_inner", "d_mlp", None),
        ("activation_function", "activation", "gelu_new"),
        ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
        ("tie_word_embeddings", "tie_embeddings", True),
        ("scale_attn_by_inverse_layer_idx", "scale_attention_by_layer", False),
    ),
}

# What must hold for our model to compute the same; a field that is left out does.
REQUIRED: dict[str, tuple[tuple[str, tuple[Any, ...]], ...]] = {
    "gpt2": (
        ("scale_attn_weights", (True,)),
        ("add_cross_attention", (False,)),
        ("is_encoder_decoder", (False,)),
        ("pruned_heads", ({}, None)),
        ("quantization_config", (None,)),
        ("position_embedding_type", ("absolute", "learned_absolute", None)),
        ("alibi", (False, None)),
        ("rope_scaling", (None,)),
    ),
}


def config_from_hf(fields: Fields) -> GPTConfig:
    """The GPTConfig of a config.json. Dropout stays 0: it belongs to a training, not to the weights.

    Raises ValueError on an unknown model_type, a field that our model cannot honour, and values that make no model.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in TABLES:
        raise ValueError(f"model_type={kind!r} is not one of {', '.join(TABLES)}: this model is no GPT-2")
    for name, allowed in REQUIRED[kind]:
        if name in fields and fields[name] not in allowed:
            raise ValueError(
                f"config.json says {name}={fields[name]!r}, which our model cannot honour; "
                f"it has to be {allowed[0]!r} or left out"
            )
    ours = {our: fields.get(their, default) for their, our, default in TABLES[kind]}
    ours["activation"] = _activation(ours["activation"])
    return _made(ours)


def _activation(name: object) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(f"config.json says the activation is {name!r}, which is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _made(ours: Fields) -> GPTConfig:
    for name in ("tie_embeddings", "scale_attention_by_layer"):
        if not isinstance(ours.get(name, False), bool):
            raise ValueError(f"config.json gives {ours[name]!r} for {name}, which has to be true or false")
    try:
        return GPTConfig(**ours)
    except TypeError as error:
        raise ValueError(f"config.json describes no model: {error}") from None
