"""GGUF files of llama.cpp: which tensors and fields its architectures gpt2, starcoder and starcoder2 have.

gpt2 and starcoder have learned positions, starcoder2 rotary ones. Their graphs have the tanh GELU and no window.
"""

from converters.architectures import QKV, Architecture

FILE = "model.gguf"
FILE_TYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "bfloat16": ("BF16", 32), "q8_0": ("Q8_0", 7)}
"""The type of matrices by its name here, and what general.file_type says of it. Vectors are float32."""
BLOCK = 32
"""Numbers that share a scale in q8_0; rows of other lengths are float16, as llama.cpp keeps them."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types."""

ENDS = (
    ("token_embd.weight", "embed", "v d -> v d"),
    ("output_norm.weight", "norm.scale", "d -> d"),
    ("output_norm.bias", "norm.bias", "d -> d"),
    ("output.weight", "head", "v d -> v d"),
)
REST_OF_BLOCK = (
    ("blk.*.attn_norm.weight", "blocks.*.attn_norm.scale", "d -> d"),
    ("blk.*.attn_norm.bias", "blocks.*.attn_norm.bias", "d -> d"),
    ("blk.*.attn_output.weight", "blocks.*.attn.out.kernel", "d (n h) -> n h d"),
    ("blk.*.attn_output.bias", "blocks.*.attn.out.bias", "d -> d"),
    ("blk.*.ffn_norm.weight", "blocks.*.mlp_norm.scale", "d -> d"),
    ("blk.*.ffn_norm.bias", "blocks.*.mlp_norm.bias", "d -> d"),
    ("blk.*.ffn_up.weight", "blocks.*.mlp.up.kernel", "f d -> d f"),
    ("blk.*.ffn_up.bias", "blocks.*.mlp.up.bias", "f -> f"),
    ("blk.*.ffn_down.weight", "blocks.*.mlp.down.kernel", "d f -> f d"),
    ("blk.*.ffn_down.bias", "blocks.*.mlp.down.bias", "d -> d"),
)
POSITIONS = "position_embd.weight"
FUSED = (
    (POSITIONS, "position", "t d -> t d"),
    ("blk.*.attn_qkv.weight", QKV.format("kernel"), "(n h | k h | k h) d -> d n h, d k h, d k h"),
    ("blk.*.attn_qkv.bias", QKV.format("bias"), "(n h | k h | k h) -> n h, k h, k h"),
)
APART = tuple(
    row
    for theirs, ours, heads in (("q", "query", "n"), ("k", "key", "k"), ("v", "value", "k"))
    for row in (
        (f"blk.*.attn_{theirs}.weight", f"blocks.*.attn.{ours}.kernel", f"({heads} h) d -> d {heads} h"),
        (f"blk.*.attn_{theirs}.bias", f"blocks.*.attn.{ours}.bias", f"({heads} h) -> {heads} h"),
    )
)
ARCHITECTURES = {
    "gpt2": Architecture("gpt2", "", (*ENDS, *FUSED, *REST_OF_BLOCK)),
    "starcoder": Architecture("starcoder", "", (*ENDS, *FUSED, *REST_OF_BLOCK)),
    "starcoder2": Architecture("starcoder2", "", (*ENDS, *APART, *REST_OF_BLOCK)),
}

FIELDS = (
    ("block_count", "num_layers"),
    ("context_length", "context_length"),
    ("embedding_length", "d_model"),
    ("feed_forward_length", "d_mlp"),
    ("attention.head_count", "num_heads"),
    ("attention.head_count_kv", "num_kv_heads"),
    ("attention.layer_norm_epsilon", "layer_norm_epsilon"),
    ("rope.freq_base", "rope_theta"),
)
"""Their field, after the name of the architecture; ours."""
