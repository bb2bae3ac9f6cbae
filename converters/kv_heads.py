"""Key-value heads of one attention layer: pooled into fewer, or repeated into more."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

Attention = dict[str, Array]

KVInit = Literal["mean", "first", "svd"]
KV_INITS = get_args(KVInit)


def repeat_kv_heads(name: str, value: Array, copies: int) -> Array:
    """A parameter with each key-value head in place of one, `copies` times: grouped attention computes the same."""
    shared = ".attn.key." in name or ".attn.value." in name
    return jnp.repeat(value, copies, axis=-2) if shared else value


def pool_kv_heads(attention: Attention, kv_heads: int, kv_init: KVInit) -> Attention:
    """The layer with fewer key-value heads, each made of a group of neighbours.

    mean: their average, which recovers fastest when uptrained (Ainslie et al. 2023, section 3.2 and figure 4).
    first: the first of them, an ablation of the same paper.
    svd: the subspace nearest to all of them (Eckart & Young 1936); each query and output head takes up the map from
    its own old key and value to the shared one, so scores change less before any training. Not for rotary models.
    """
    if kv_init == "svd":
        with jax.default_matmul_precision("highest"):
            return attention | _svd(attention, kv_heads)
    changed = {}
    for name in ("key.kernel", "key.bias", "value.kernel", "value.bias"):
        if name in attention:
            groups = _groups(attention[name], kv_heads)
            changed[name] = groups.mean(axis=-2) if kv_init == "mean" else groups[..., 0, :]
    return attention | changed


def _groups(heads: Float[Array, "*D N H"], kv_heads: int) -> Float[Array, "*D K G H"]:
    return heads.reshape(*heads.shape[:-2], kv_heads, heads.shape[-2] // kv_heads, heads.shape[-1])


def _svd(attention: Attention, kv_heads: int) -> Attention:
    key, to_query = _nearest_subspace(_groups(_with_bias_row(attention, "key"), kv_heads))
    value, to_out = _nearest_subspace(_groups(_with_bias_row(attention, "value"), kv_heads))
    copies = attention["query.kernel"].shape[-2] // len(to_query)  # above 1 where the source is grouped already
    to_query, to_out = jnp.repeat(to_query, copies, axis=0), jnp.repeat(to_out, copies, axis=0)
    changed = {
        "query.kernel": jnp.einsum("dnh,nch->dnc", attention["query.kernel"], to_query),
        "out.kernel": jnp.einsum("nch,nhd->ncd", to_out, attention["out.kernel"]),
    }
    if "query.bias" not in attention:
        return changed | {"key.kernel": key, "value.kernel": value}
    changed["query.bias"] = jnp.einsum("nh,nch->nc", attention["query.bias"], to_query)
    biases = {"key.bias": key[-1], "value.bias": value[-1]}
    return changed | biases | {"key.kernel": key[:-1], "value.kernel": value[:-1]}


def _with_bias_row(attention: Attention, name: str) -> Float[Array, "D N H"]:
    """The kernel, and the bias as its row for an input that is always one."""
    kernel = attention[f"{name}.kernel"]
    return jnp.concatenate([kernel, attention[f"{name}.bias"][None]]) if f"{name}.bias" in attention else kernel


def _nearest_subspace(heads: Float[Array, "D K G H"]) -> tuple[Float[Array, "D K H"], Float[Array, "N H H"]]:
    """A kernel S per group and a map M per head with S M nearest to that head; S has the heads' mean size."""
    size, kv_heads, group, width = heads.shape
    stacked = heads.transpose(1, 0, 2, 3).reshape(kv_heads, size, group * width)
    basis = jnp.linalg.svd(stacked, full_matrices=False)[0][..., :width]
    scale = jnp.linalg.norm(stacked, axis=(1, 2), keepdims=True) / (group * width) ** 0.5
    maps = jnp.einsum("kdc,dkgh->kgch", basis / scale, heads)
    return (basis * scale).transpose(1, 0, 2), maps.reshape(kv_heads * group, width, width)
