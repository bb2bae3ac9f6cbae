"""config.json and GPTConfig: one table per architecture, read in both directions.

A field that transformers' model class does not read is ignored here as there; one that it reads and our model cannot
honour is an error that names it.
"""

from typing import Any

from converters.files import shown
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError

Fields = dict[str, Any]

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Their name, ours; of several that are the same function, the first is the one written."""

GPT2_FIELDS = (
    ("vocab_size", "vocab_size", 50257),
    ("n_positions", "context_length", 1024),
    ("n_layer", "num_layers", 12),
    ("n_head", "num_heads", 12),
    ("n_embd", "d_model", 768),
    ("n_inner", "d_mlp", None),
    ("layer_norm_epsilon", "layer_norm_epsilon", 1e-5),
    ("tie_word_embeddings", "tie_embeddings", True),
)

# Their field, our field, the value where config.json leaves it out.
TABLES: dict[str, tuple[tuple[str, str, Any], ...]] = {
    "gpt2": (
        *GPT2_FIELDS,
        ("activation_function", "activation", "gelu_new"),
        ("scale_attn_by_inverse_layer_idx", "scale_attention_by_layer", False),
    ),
    "gpt_bigcode": (*GPT2_FIELDS, ("activation_function", "activation", "gelu_pytorch_tanh")),
    "starcoder2": (
        ("vocab_size", "vocab_size", 49152),
        ("max_position_embeddings", "context_length", 4096),
        ("num_hidden_layers", "num_layers", 30),
        ("num_attention_heads", "num_heads", 24),
        ("num_key_value_heads", "num_kv_heads", 2),
        ("hidden_size", "d_model", 3072),
        ("intermediate_size", "d_mlp", 12288),
        ("norm_epsilon", "layer_norm_epsilon", 1e-5),
        ("tie_word_embeddings", "tie_embeddings", True),
        ("hidden_act", "activation", "gelu_pytorch_tanh"),
        ("sliding_window", "window", None),
    ),
}

GPT2_ALIASES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
}
ALIASES: dict[str, dict[str, str]] = {"gpt2": GPT2_ALIASES, "gpt_bigcode": GPT2_ALIASES, "starcoder2": {}}
"""The `attribute_map` of transformers' config class: another name of a field. Where both are there, it wins."""

FIXED: dict[str, Fields] = {
    "gpt2": {"position": "learned"},
    "gpt_bigcode": {"position": "learned", "num_kv_heads": 1},
    "starcoder2": {"position": "rotary"},
}
"""Our fields that the architecture decides."""

Required = tuple[tuple[str, tuple[Any, ...]], ...]

NO_OTHER_KIND: Required = (
    ("add_cross_attention", (False,)),
    ("quantization_config", (None,)),
    ("per_layer_config", (None, {})),
)

REQUIRED: dict[str, Required] = {
    "gpt2": NO_OTHER_KIND,
    "gpt_bigcode": (*NO_OTHER_KIND, ("multi_query", (True,))),
    "starcoder2": (*NO_OTHER_KIND, ("use_bias", (True,))),
}
"""What must hold for our model to compute the same; a field that is left out does."""

CLASSES = {"gpt2": "GPT2LMHeadModel", "gpt_bigcode": "GPTBigCodeForCausalLM", "starcoder2": "Starcoder2ForCausalLM"}
DROPOUTS = {
    "gpt2": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "gpt_bigcode": ("resid_pdrop", "embd_pdrop", "attn_pdrop"),
    "starcoder2": ("residual_dropout", "embedding_dropout", "attention_dropout"),
}


def config_from_hf(fields: Fields) -> GPTConfig:
    """The GPTConfig of a config.json. Dropout stays 0: it belongs to a training, not to the weights.

    Raises UserError on an unknown model_type, a field that our model cannot honour, and values that make no model.
    """
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in TABLES:
        raise UserError(f"model_type={shown(kind)} is not one of {', '.join(TABLES)}: this model is no GPT-2")
    fields = fields | {name: fields[alias] for alias, name in ALIASES[kind].items() if alias in fields}
    for name, allowed in REQUIRED[kind]:
        if name in fields and fields[name] not in allowed:
            raise _refusal(name, fields[name], allowed[0])
    ours = {our: fields.get(their, default) for their, our, default in TABLES[kind]} | FIXED[kind]
    ours["activation"] = _activation(ours["activation"])
    if kind == "starcoder2":
        ours["rope_theta"] = _rope_theta(fields)
        _check_head_size(fields, ours)
    return _made(ours)


def config_to_hf(config: GPTConfig, kind: str, dtype: str, special_tokens: Fields) -> Fields:
    """The config.json of a model that the architecture can hold, its weights stored in `dtype`."""
    written = {their: getattr(config, our) for their, our, _ in TABLES[kind]}
    activation = next(their for their, our, _ in TABLES[kind] if our == "activation")
    written[activation] = next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation)
    if kind == "starcoder2":
        written |= _starcoder2_fields(config)
    return {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "dtype": dtype,
        **written,
        **dict.fromkeys(DROPOUTS[kind], config.dropout),
        "bos_token_id": None,  # left out, it would be GPT-2's
        "eos_token_id": None,
        **special_tokens,
    }


def scales_attention(fields: Fields) -> bool:
    """Whether attention scores are divided by the root of the head size, as our model divides them.

    Raises UserError where the field is neither true nor false.
    """
    if fields["model_type"] == "starcoder2":
        return True
    scaled = fields.get("scale_attn_weights", True)
    if not isinstance(scaled, bool):
        raise _refusal("scale_attn_weights", scaled, True)
    return scaled


def _starcoder2_fields(config: GPTConfig) -> Fields:
    return {
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.mlp_width,
        "sliding_window": config.windows[0],
        "rope_theta": config.rope_theta,  # transformers 4 reads this one, 5 the other
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "use_bias": True,
    }


def _activation(name: object) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"config.json says the activation is {shown(name)}, which is not one of {known}")
    return ACTIVATIONS[name]


def _rope_theta(fields: Fields) -> object:
    """The base of the wavelengths: from rope_scaling, else rope_parameters, else the field of transformers 4."""
    name = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    rope = fields.get(name) or {}
    if not isinstance(rope, dict):
        raise _refusal(name, rope, {"rope_type": "default", "rope_theta": 10000.0})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise _refusal(f"{name} of rope_type", kind, "default")
    return rope.get("rope_theta", fields.get("rope_theta", 10000.0))


def _check_head_size(fields: Fields, ours: Fields) -> None:
    size, heads, width = fields.get("head_dim"), ours["num_heads"], ours["d_model"]
    if size and not (isinstance(size, int) and isinstance(heads, int) and size * heads == width):
        raise _refusal("head_dim", size, "hidden_size / num_attention_heads")


def _refusal(name: str, value: object, allowed: object) -> UserError:
    return UserError(
        f"config.json says {name}={shown(value)}, which our model cannot honour; it has to be {allowed!r} or left out"
    )


def _made(ours: Fields) -> GPTConfig:
    for name in ("layer_norm_epsilon", "rope_theta"):
        if isinstance(ours.get(name), int) and not isinstance(ours[name], bool) and abs(ours[name]) < LARGEST:
            ours[name] = float(ours[name])
    return checked_config(ours)


LARGEST = 10**7
WHOLE = ("vocab_size", "context_length", "num_layers", "num_heads", "d_model")
WHOLE_OR_NONE = ("num_kv_heads", "d_mlp")
TRUE_OR_FALSE = ("tie_embeddings", "bias", "scale_attention_by_layer", "scan_layers")
NUMBERS = ("layer_norm_epsilon", "rope_theta", "dropout")


def checked_config(fields: Fields) -> GPTConfig:
    """The config of fields from a file.

    Raises UserError on a value of another type, and on a size that no model has, before anything is made.
    """
    for name, value in fields.items():
        if problem := _problem(name, value):
            raise UserError(f"{name}={shown(value)} in the file {problem}: get it again")
    try:
        return GPTConfig.from_dict(fields)
    except ValueError as error:
        raise UserError(str(error)) from None


def _problem(name: str, value: object) -> str | None:
    """What is wrong with the type or the size of a field's value."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and abs(value) > LARGEST:  # type: ignore[arg-type]
        return f"is larger than {LARGEST}, no size of a GPT"
    if name in NUMBERS:
        number = whole or isinstance(value, float)
        return None if number and 0 <= value < 1e30 else "has to be a number above 0"  # type: ignore[operator]
    if name in TRUE_OR_FALSE:
        return None if isinstance(value, bool) else "has to be true or false"
    if name in WHOLE or name in WHOLE_OR_NONE:
        return None if whole or (value is None and name in WHOLE_OR_NONE) else "has to be a whole number"
    if name == "window":
        widths = value if isinstance(value, list | tuple) else [value]
        fine = all(width is None or (type(width) is int and width <= LARGEST) for width in widths)
        return None if fine else "has to be a whole number, null, or a list of these"
    return None if isinstance(value, str) else "has to be a word"
