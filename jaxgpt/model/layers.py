"""The layers that every block is made of: a linear map and LayerNorm."""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, Shaped

from jaxgpt.model.init import Rngs
from jaxgpt.ops.layer_norm import layer_norm
from jaxgpt.ops.linear import linear

if TYPE_CHECKING:
    from jaxgpt.model.lora import Adapter


class Linear(nnx.Module):
    """y = x W + b, over one or more input and output axes; with an adapter, of W + alpha / r A B."""

    def __init__(
        self, inputs: tuple[int, ...], outputs: tuple[int, ...], *, stddev: float, bias: bool, rngs: Rngs
    ) -> None:
        self.kernel = nnx.Param(stddev * jax.random.normal(rngs.params(), (*inputs, *outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs, jnp.float32)) if bias else None
        self.adapter: Adapter | None = None
        self.scale: nnx.Param | None = None
        """Of an int8 kernel (inference/weights.py): what each output is multiplied by."""
        self.num_inputs = len(inputs)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        batch, outputs = x.shape[: x.ndim - self.num_inputs], self.kernel.shape[self.num_inputs :]
        rows, columns = math.prod(batch), math.prod(outputs)  # as matrices: XLA fuses a bias of rank 1 into the product
        kernel = self.kernel[...]
        kernel = (kernel.astype(x.dtype) if kernel.dtype == jnp.float32 else kernel).reshape(-1, columns)
        bias = None if self.bias is None else self.bias[...].reshape(1, columns)
        scale = None if self.scale is None else self.scale[...].reshape(1, columns)
        x = x.reshape(rows, -1)
        y = linear(x, kernel, bias, scale)
        if self.adapter is not None:
            y = y + self.adapter(x)
        return y.reshape(*batch, *outputs)


class LayerNorm(nnx.Module):
    """Zero mean and unit variance over the width, then scale and bias (Ba et al. 2016, eq. 4)."""

    def __init__(self, width: int, *, epsilon: float, bias: bool) -> None:
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32)) if bias else None
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        bias = None if self.bias is None else self.bias[...]
        return layer_norm(x.reshape(-1, x.shape[-1]), self.scale[...], bias, self.epsilon).reshape(x.shape)


class InferenceHead(nnx.Module):
    """The vocabulary's matrix as decoding on a CPU reads it, [D V]; of int8 numbers, with a scale for each token."""

    def __init__(self, kernel: Shaped[Array, "D V"], scale: Float[Array, " V"] | None) -> None:
        self.kernel = nnx.Param(kernel)
        self.scale = None if scale is None else nnx.Param(scale)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Logits in float32."""
        rows = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
        scale = None if self.scale is None else self.scale[...][None]
        return linear(rows, self.kernel[...], scale=scale).reshape(*x.shape[:2], -1)

    @property
    def table(self) -> Float[Array, "V D"]:
        """The same as an output table in float32."""
        table = self.kernel[...].T.astype(jnp.float32)
        return table if self.scale is None else table * self.scale[...][:, None]
