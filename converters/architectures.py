"""One table per architecture: their tensor, our parameters, the layout between. A new architecture is a new table."""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping

import numpy as np
from jax import Array

from converters.layouts import Layout, Sizes, layout
from jaxgpt.config import GPTConfig
from jaxgpt.errors import UserError


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs and the parameters of ours that it holds."""

    theirs: str
    ours: tuple[str, ...]
    layout: Layout

    def tensor(self, parameters: Mapping[str, Array], letters: Sizes) -> np.ndarray:
        """Their tensor from our parameters, whose padding rows are left out."""
        arrays = []
        for name, axes in zip(self.ours, self.layout.ours, strict=True):
            if not parameters[name].is_fully_addressable:
                raise UserError(f"{name} lies on several hosts; gather the model on one of them first")
            arrays.append(np.asarray(parameters[name])[tuple(slice(letters[axis]) for axis in axes)])
        return self.layout.join(arrays, letters)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How one model class of transformers names and lays out its tensors."""

    name: str
    prefix: str
    """What the names of all tensors but the head begin with; published files often leave it out."""
    table: tuple[tuple[str, str, str], ...]
    """Their name, our names, the layout. `*` stands for the layer's number."""
    ignored_keys: str = r"$^"
    """Tensors that a file may hold besides, a regular expression: buffers that older versions saved."""
    other_heads: str = r"(multiple_choice_head\.summary|score|classifier|qa_outputs|v_head\.summary)\.(weight|bias)"
    """Heads of the classes for classification, choice, spans and rewards, a regular expression: no part of a GPT."""

    def rows(self, config: GPTConfig, parameters: Collection[str]) -> Iterator[Row]:
        """The rows of a model with these parameters, layer by layer. A parameter without a row is a UserError."""
        found = [row for row in self.all_rows(config) if any(name in parameters for name in row.ours)]
        if lost := set(parameters) - {name for row in found for name in row.ours}:
            raise UserError(
                f"{self.name} has no tensor for {', '.join(sorted(lost))}; add a row to its table, "
                "or choose another architecture"
            )
        yield from found

    def all_rows(self, config: GPTConfig) -> Iterator[Row]:
        """Every row of the table, layer by layer."""
        for theirs, ours, text in self.table:
            for layer in range(config.num_layers) if "*" in theirs else (0,):
                names = ours.replace("*", str(layer)).split()
                yield Row(theirs.replace("*", str(layer)), tuple(names), layout(text))

    def short_name(self, name: str) -> str:
        """A tensor's name as the table has it: without the prefix."""
        return name.removeprefix(self.prefix)

    def full_name(self, name: str) -> str:
        """A name of the table as the model class has it."""
        return name if name == HEAD else self.prefix + name

    def is_ignored(self, name: str) -> bool:
        """Whether the tensor is one that says nothing about the model."""
        return re.fullmatch(self.ignored_keys, name) is not None

    def is_other_head(self, name: str) -> bool:
        """Whether the tensor belongs to a head that is not a language model's."""
        return re.fullmatch(self.other_heads, name) is not None


def sizes(config: GPTConfig) -> Sizes:
    """What the letters of layout strings stand for. Vocabulary: without padding rows, which no other library has."""
    return {
        "v": config.vocab_size,
        "t": config.context_length,
        "d": config.d_model,
        "f": config.mlp_width,
        "n": config.num_heads,
        "k": config.kv_heads,
        "h": config.head_dim,
    }


HEAD = "lm_head.weight"
QKV = "blocks.*.attn.query.{0} blocks.*.attn.key.{0} blocks.*.attn.value.{0}"

GPT2 = Architecture(
    name="gpt2",
    prefix="transformer.",
    ignored_keys=r"h\.\d+\.attn\.(masked_)?bias",  # the causal mask and its filler
    table=(
        ("wte.weight", "embed", "v d -> v d"),
        ("wpe.weight", "position", "t d -> t d"),
        ("h.*.ln_1.weight", "blocks.*.attn_norm.scale", "d -> d"),
        ("h.*.ln_1.bias", "blocks.*.attn_norm.bias", "d -> d"),
        # Conv1D: inputs first, as in our kernels.
        ("h.*.attn.c_attn.weight", QKV.format("kernel"), "d (n h | k h | k h) -> d n h, d k h, d k h"),
        ("h.*.attn.c_attn.bias", QKV.format("bias"), "(n h | k h | k h) -> n h, k h, k h"),
        ("h.*.attn.c_proj.weight", "blocks.*.attn.out.kernel", "(n h) d -> n h d"),
        ("h.*.attn.c_proj.bias", "blocks.*.attn.out.bias", "d -> d"),
        ("h.*.ln_2.weight", "blocks.*.mlp_norm.scale", "d -> d"),
        ("h.*.ln_2.bias", "blocks.*.mlp_norm.bias", "d -> d"),
        ("h.*.mlp.c_fc.weight", "blocks.*.mlp.up.kernel", "d f -> d f"),
        ("h.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias", "f -> f"),
        ("h.*.mlp.c_proj.weight", "blocks.*.mlp.down.kernel", "f d -> f d"),
        ("h.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias", "d -> d"),
        ("ln_f.weight", "norm.scale", "d -> d"),
        ("ln_f.bias", "norm.bias", "d -> d"),
        (HEAD, "head", "v d -> v d"),
    ),
)

GPT_BIGCODE = Architecture(
    name="gpt_bigcode",
    prefix="transformer.",
    ignored_keys=r"(h\.\d+\.attn\.)?(masked_)?bias",
    table=(
        ("wte.weight", "embed", "v d -> v d"),
        ("wpe.weight", "position", "t d -> t d"),
        ("h.*.ln_1.weight", "blocks.*.attn_norm.scale", "d -> d"),
        ("h.*.ln_1.bias", "blocks.*.attn_norm.bias", "d -> d"),
        # Linear: outputs first; one key head and one value head follow all the query heads.
        ("h.*.attn.c_attn.weight", QKV.format("kernel"), "(n h | k h | k h) d -> d n h, d k h, d k h"),
        ("h.*.attn.c_attn.bias", QKV.format("bias"), "(n h | k h | k h) -> n h, k h, k h"),
        ("h.*.attn.c_proj.weight", "blocks.*.attn.out.kernel", "d (n h) -> n h d"),
        ("h.*.attn.c_proj.bias", "blocks.*.attn.out.bias", "d -> d"),
        ("h.*.ln_2.weight", "blocks.*.mlp_norm.scale", "d -> d"),
        ("h.*.ln_2.bias", "blocks.*.mlp_norm.bias", "d -> d"),
        ("h.*.mlp.c_fc.weight", "blocks.*.mlp.up.kernel", "f d -> d f"),
        ("h.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias", "f -> f"),
        ("h.*.mlp.c_proj.weight", "blocks.*.mlp.down.kernel", "d f -> f d"),
        ("h.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias", "d -> d"),
        ("ln_f.weight", "norm.scale", "d -> d"),
        ("ln_f.bias", "norm.bias", "d -> d"),
        (HEAD, "head", "v d -> v d"),
    ),
)

STARCODER2 = Architecture(
    name="starcoder2",
    prefix="model.",
    table=(
        ("embed_tokens.weight", "embed", "v d -> v d"),
        ("layers.*.input_layernorm.weight", "blocks.*.attn_norm.scale", "d -> d"),
        ("layers.*.input_layernorm.bias", "blocks.*.attn_norm.bias", "d -> d"),
        ("layers.*.self_attn.q_proj.weight", "blocks.*.attn.query.kernel", "(n h) d -> d n h"),
        ("layers.*.self_attn.q_proj.bias", "blocks.*.attn.query.bias", "(n h) -> n h"),
        ("layers.*.self_attn.k_proj.weight", "blocks.*.attn.key.kernel", "(k h) d -> d k h"),
        ("layers.*.self_attn.k_proj.bias", "blocks.*.attn.key.bias", "(k h) -> k h"),
        ("layers.*.self_attn.v_proj.weight", "blocks.*.attn.value.kernel", "(k h) d -> d k h"),
        ("layers.*.self_attn.v_proj.bias", "blocks.*.attn.value.bias", "(k h) -> k h"),
        ("layers.*.self_attn.o_proj.weight", "blocks.*.attn.out.kernel", "d (n h) -> n h d"),
        ("layers.*.self_attn.o_proj.bias", "blocks.*.attn.out.bias", "d -> d"),
        ("layers.*.post_attention_layernorm.weight", "blocks.*.mlp_norm.scale", "d -> d"),
        ("layers.*.post_attention_layernorm.bias", "blocks.*.mlp_norm.bias", "d -> d"),
        ("layers.*.mlp.c_fc.weight", "blocks.*.mlp.up.kernel", "f d -> d f"),
        ("layers.*.mlp.c_fc.bias", "blocks.*.mlp.up.bias", "f -> f"),
        ("layers.*.mlp.c_proj.weight", "blocks.*.mlp.down.kernel", "d f -> f d"),
        ("layers.*.mlp.c_proj.bias", "blocks.*.mlp.down.bias", "d -> d"),
        ("norm.weight", "norm.scale", "d -> d"),
        ("norm.bias", "norm.bias", "d -> d"),
        (HEAD, "head", "v d -> v d"),
    ),
)

NANOGPT = Architecture("nanogpt", GPT_BIGCODE.prefix, GPT_BIGCODE.table, GPT_BIGCODE.ignored_keys)
"""nanoGPT and llm.c keep GPT-2's names and use Linear, as GPTBigCode does."""

OWN_AXES = {
    "embed": "v d",
    "position": "t d",
    "blocks.*.attn_norm.scale": "d",
    "blocks.*.attn_norm.bias": "d",
    "blocks.*.attn.query.kernel": "d n h",
    "blocks.*.attn.query.bias": "n h",
    "blocks.*.attn.key.kernel": "d k h",
    "blocks.*.attn.key.bias": "k h",
    "blocks.*.attn.value.kernel": "d k h",
    "blocks.*.attn.value.bias": "k h",
    "blocks.*.attn.out.kernel": "n h d",
    "blocks.*.attn.out.bias": "d",
    "blocks.*.mlp_norm.scale": "d",
    "blocks.*.mlp_norm.bias": "d",
    "blocks.*.mlp.up.kernel": "d f",
    "blocks.*.mlp.up.bias": "f",
    "blocks.*.mlp.down.kernel": "f d",
    "blocks.*.mlp.down.bias": "d",
    "norm.scale": "d",
    "norm.bias": "d",
    "head": "v d",
}
OWN = Architecture("jaxgpt", prefix="", table=tuple((n, n, f"{axes} -> {axes}") for n, axes in OWN_AXES.items()))
"""Our own layout: every parameter under its name."""

ARCHITECTURES = {architecture.name: architecture for architecture in (GPT2, GPT_BIGCODE, STARCODER2, OWN)}
