"""What a GPT is made of: one frozen value, its rules, and the published sizes."""

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Iterable
from typing import Any, Literal

from jaxgpt.errors import UserError
from jaxgpt.fields import check_types

Position = Literal["learned", "rotary", "none"]
Activation = Literal["gelu_tanh", "gelu", "relu", "silu"]
Weights = Literal["bf16", "int8"]
"""How decoding keeps the matrices: in bfloat16, or in int8 with a scale for each output. Sums are in float32."""
Backend = Literal["auto", "xla", "blocked", "banded", "cudnn"]

VOCABULARY_MULTIPLE = 128
"""The embedding table is padded to a multiple of this many rows: 50257 is 29 x 1733, which no matrix unit likes."""


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The architecture of one model. The defaults are GPT-2 124M (Radford et al. 2019).

    Raises UserError where a field is not of its type or range, or two do not fit each other.

    Example:
        >>> from jaxgpt import GPTConfig
        >>> config = GPTConfig.preset("gpt2-medium", position="rotary", window=(256, None), num_kv_heads=4)
        >>> config.windows[:4], config.kv_heads, config.head_dim
        ((256, None, 256, None), 4, 64)
        >>> GPTConfig(num_heads=5)
        Traceback (most recent call last):
        jaxgpt.errors.UserError: d_model=768 is not a multiple of num_heads=5; use one of 1, 2, 3, 4, 6, 8, ... heads
    """

    vocab_size: int = 50257
    """How many tokens the model can read and write."""
    context_length: int = 1024
    """How many tokens the model sees at once."""
    num_layers: int = 12
    """How many blocks are stacked."""
    num_heads: int = 12
    """Query heads per layer; must divide d_model."""
    num_kv_heads: int | None = None
    """Key-value heads per layer; must divide num_heads. 1: multi-query. None: as many as num_heads."""
    d_model: int = 768
    """Width of the residual stream."""
    d_mlp: int | None = None
    """Width of the feed-forward layer. None: 4 x d_model."""
    position: Position = "learned"
    """Where order comes from: a learned table (GPT-2), rotary angles (Su et al. 2021), or the causal mask alone."""
    rope_theta: float = 10000.0
    """Base of the rotary wavelengths; read only where position is rotary."""
    window: int | tuple[int | None, ...] | None = None
    """How many tokens a query sees, itself included. None: all before it. A tuple is one period over the layers."""
    activation: Activation = "gelu_tanh"
    """The feed-forward nonlinearity; GPT-2 uses the tanh form of GELU, nanoGPT the exact one."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance in every LayerNorm."""
    tie_embeddings: bool = True
    """Whether the output head is the embedding table."""
    bias: bool = True
    """Whether linear layers and LayerNorms have a bias."""
    scale_attention_by_layer: bool = False
    """Divide attention scores by the layer's number, from 1 (Mistral's CRFM models)."""
    dropout: float = 0.0
    """Probability of dropping an embedding, an attention weight or a residual update in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What activations and products are computed in; parameters, statistics and the loss stay float32."""
    attention: Backend = "auto"
    """Attention backend by name. auto: cudnn on NVIDIA GPUs where it can; else blocked, or xla for a short text."""
    scan_layers: bool = False
    """Compile one block and loop over it: quicker to compile, the same numbers."""

    def __post_init__(self) -> None:
        if isinstance(self.window, list):  # as JSON spells a tuple
            object.__setattr__(self, "window", tuple(self.window))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}={getattr(self, name)!r} is unknown{_nearest(getattr(self, name), allowed)}")
        for name in ("vocab_size", "context_length", "num_layers", "num_heads", "d_model"):
            _at_least_one(name, getattr(self, name))
        for name in ("num_kv_heads", "d_mlp"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        self._check_window()
        check_types(self)
        self._check_heads()
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} is not a probability below 1; 0 turns it off")
        for name in ("layer_norm_epsilon", "rope_theta"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0")

    def _check_heads(self) -> None:
        if self.d_model % self.num_heads:
            raise UserError(
                f"d_model={self.d_model} is not a multiple of num_heads={self.num_heads}; "
                f"use one of {_divisors(self.d_model)} heads"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.kv_heads}; "
                f"use one of {_divisors(self.num_heads)} key-value heads"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise UserError(
                f"rotary positions turn pairs, but the head size d_model / num_heads = {self.head_dim} is odd; "
                "change num_heads so that it is even"
            )

    def _check_window(self) -> None:
        period = self.window if isinstance(self.window, tuple) else (self.window,)
        if not period:
            raise UserError("window=() names no layer; use None for full attention")
        for width in period:
            if width is not None and (not isinstance(width, int) or isinstance(width, bool) or width < 1):
                raise UserError(f"window={width} sees nothing: a window counts the query itself, so it is at least 1")
        if self.attention == "banded" and None in self.windows:
            raise UserError("attention='banded' needs a window in every layer; set window, or use attention='xla'")

    @property
    def kv_heads(self) -> int:
        """Key-value heads, with the default filled in."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Size of one head."""
        return self.d_model // self.num_heads

    @property
    def mlp_width(self) -> int:
        """Width of the feed-forward layer, with the default filled in."""
        return 4 * self.d_model if self.d_mlp is None else self.d_mlp

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer."""
        period = self.window if isinstance(self.window, tuple) else (self.window,)
        return tuple(period[layer % len(period)] for layer in range(self.num_layers))

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table; those past vocab_size stay zero and are never seen."""
        return -(-self.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    @property
    def max_length(self) -> int | None:
        """The longest text the model can read. None: any, since no layer looks further back than its window."""
        bounded = self.position == "learned" or None in self.windows
        return self.context_length if bounded else None

    def check_length(self, length: int) -> None:
        """Raise UserError where a text of `length` tokens is too long (XLA would clamp the positions in silence)."""
        if self.max_length is None or length <= self.max_length:
            return
        why = (
            f"position='learned' knows {self.context_length} positions"
            if self.position == "learned"
            else "a layer without a window attends to the whole context"
        )
        raise UserError(
            f"{length} tokens are more than context_length={self.context_length}: {why}; "
            "shorten the text, or use position='rotary' with a window in every layer"
        )

    def to_dict(self) -> dict[str, Any]:
        """A dict that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "GPTConfig":
        """The inverse of `to_dict`. Raises UserError on a field that does not exist."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise UserError(f"{name!r} is not a field of GPTConfig{_nearest(name, known)}")
        return cls(**fields)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "GPTConfig":
        """A named model, with fields changed. Raises UserError on an unknown name."""
        if name not in MODELS:
            raise UserError(f"there is no model preset {name!r}{_nearest(name, MODELS)}")
        return dataclasses.replace(MODELS[name], **changes)


_CHOICES: dict[str, tuple[str, ...]] = {
    "position": ("learned", "rotary", "none"),
    "activation": ("gelu_tanh", "gelu", "relu", "silu"),
    "dtype": ("float32", "bfloat16"),
    "attention": ("auto", "xla", "blocked", "banded", "cudnn"),
}


def _at_least_one(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={reprlib.repr(value)} must be a whole number of at least 1")


def _divisors(number: int) -> str:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return ", ".join(map(str, sorted({*small, *(number // n for n in small)})))


def _nearest(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: what was likely meant, and all there is."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


MODELS: dict[str, GPTConfig] = {
    "gpt2": GPTConfig(),
    "gpt2-medium": GPTConfig(num_layers=24, num_heads=16, d_model=1024),
    "gpt2-large": GPTConfig(num_layers=36, num_heads=20, d_model=1280),
    "gpt2-xl": GPTConfig(num_layers=48, num_heads=25, d_model=1600),
    "quickstart": GPTConfig(
        vocab_size=2048, context_length=256, num_layers=4, num_heads=4, d_model=128, position="rotary"
    ),
    "shakespeare-char-cpu": GPTConfig(vocab_size=65, context_length=64, num_layers=4, num_heads=4, d_model=128),
    "shakespeare-char": GPTConfig(
        vocab_size=65, context_length=256, num_layers=6, num_heads=6, d_model=384, dropout=0.2
    ),
    "tiny": GPTConfig(vocab_size=97, context_length=32, num_layers=2, num_heads=4, d_model=32),
}
"""The architectures with a name: OpenAI's four sizes, and those that the presets of `jaxgpt train` use."""
