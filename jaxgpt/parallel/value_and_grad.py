"""Any loss and its gradient on a mesh: what is all-gathered, what is reduce-scattered, what is all-reduced.

Each device computes its own rows of the batch. Along fsdp it holds a shard of each parameter (ZeRO, Rajbhandari et al.
2020): a block's shards are gathered before use, and its gradient is reduce-scattered as it is summed. Along data
devices hold the same shards, and gradients are all-reduced once, after the last microbatch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from jaxgpt.errors import UserError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import combine, select
from jaxgpt.ops.dropout import key_per_row
from jaxgpt.parallel.mesh import check_batch
from jaxgpt.parallel.norm import global_norm
from jaxgpt.parallel.sharding import batch_axes
from jaxgpt.parallel.view import Unsharder

Loss = Callable[..., Any]
"""loss(model, tokens, key, *frozen_models) -> a scalar, or (a scalar, a dict of scalars)."""
Aux = dict[str, Float[Array, ""]]
Value = tuple[Float[Array, ""], Aux]


def value_and_grad(
    loss: Loss,
    mesh: Mesh,
    *,
    microbatches: int = 1,
    zero: Literal[1, 2, 3] = 3,
    remat: Literal["none", "block", "full"] = "none",
    grad_dtype: Literal["float32", "bfloat16"] = "float32",
    trained: Callable[[str], bool] | None = None,
) -> Callable[..., tuple[Value, GPT, Float[Array, ""]]]:
    """f(model, tokens, key=None, *frozen_models) -> ((loss, aux), gradients, norm of the gradients). Call it under jit.

    loss(model, tokens, key, *frozen_models) is a mean over the rows it is given: a scalar, or (scalar, dict of
    scalars). It is given some rows of the batch, and a model that it can use like any other: call it, or read its
    parameters. On the mesh each block's parameters are gathered just before they are used. What is returned is the mean
    over microbatches and devices, as if the loss had been called once with the whole batch.

    model: sharded by `shard`. tokens: [B, S], or any tree of arrays with B rows; the loss is given
    B / (devices x microbatches) of them at a time. key: None, one key (each row then has its own, so that no mesh
    changes what is dropped), or a key per row.
    frozen_models: more models for the loss, sharded too, that get no gradient, such as a teacher.
    zero: what fsdp saves. 3: a block's parameters are whole only while in use. 2: they stay whole until the backward
    pass. 1: they and their gradients are whole throughout. remat: what the backward pass recomputes.
    grad_dtype: of gradients on their way between devices. Gradients are float32, and sharded like the model.
    trained: whether the parameter at a path gets a gradient; in place of each other gradient is None. None: all do.

    Raises UserError where the batch cannot be shared out, or fsdp divides no axis of a parameter.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxgpt.config import GPTConfig
    >>> from jaxgpt.model.loss import next_token_loss
    >>> from jaxgpt.parallel.mesh import one_device
    >>> def loss(model, tokens, key):
    ...     cross_entropy = next_token_loss(model, tokens, key)
    ...     penalty = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(model))
    ...     return cross_entropy + 1e-4 * penalty, {"cross_entropy": cross_entropy}
    >>> model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    >>> f = jax.jit(value_and_grad(loss, one_device()))
    >>> (value, aux), gradients, norm = f(model, jnp.ones((2, 9), int))
    >>> bool(value > aux["cross_entropy"]), gradients.embed.shape
    (True, (128, 32))
    """
    _check_options(microbatches, zero, remat, grad_dtype)

    def of_batch(
        model: GPT, tokens: Any, key: Array | None = None, *frozen: GPT
    ) -> tuple[Value, GPT, Float[Array, ""]]:
        key = _checked(mesh, microbatches, tokens, key)
        unsharder = Unsharder.of(model, mesh, grad_dtype)
        specs = select(unsharder.specs, trained)
        frozen_unsharders = [Unsharder.of(each, mesh, grad_dtype) for each in frozen]

        def on_one_device(
            shards: GPT, tokens: Any, key: Array | None, *frozen: GPT
        ) -> tuple[Value, GPT, Float[Array, ""]]:
            parameters, inner = jax.tree.map(partial(_pcast_varying, axes=axes), shards, unsharder.specs), unsharder
            if zero == 1:  # gathered before the microbatches, reduce-scattered after them
                parameters, inner = unsharder.unshard_all(parameters), unsharder.without_shards

            views = _views(frozen, frozen_unsharders)

            def of_microbatch(selected: GPT, tokens: Any, key: Array | None) -> Value:
                model = combine(selected, parameters)
                return _with_aux(loss(inner.view(model, zero=zero, remat=remat), tokens, key, *views))

            with_gradient = jax.value_and_grad(of_microbatch, has_aux=True)
            value, grads = _accumulate(with_gradient, select(parameters, trained), tokens, key, microbatches)
            if zero == 1:
                grads = unsharder.reduce_scatter(grads)
            grads = jax.tree.map(partial(_all_reduce, axes=axes, dtype=grad_dtype), grads, specs)
            loss_sum, aux = jax.lax.psum(value[0], axes), _sum_over_devices(value[1], tokens, axes)
            value, grads = jax.tree.map(lambda total: total / mesh.size, ((loss_sum, aux), grads))
            return value, grads, global_norm(grads, specs)

        axes = batch_axes(mesh)
        rows = P(axes or None)
        inputs = (unsharder.specs, rows, rows, *(each.specs for each in frozen_unsharders))
        outputs = (P(), specs, P())
        return jax.shard_map(on_one_device, mesh=mesh, in_specs=inputs, out_specs=outputs)(model, tokens, key, *frozen)

    return of_batch


def mean_loss(loss: Loss, mesh: Mesh, *, microbatches: int = 1) -> Callable[..., Value]:
    """f(model, tokens, key=None, *frozen_models) -> (loss, aux): as `value_and_grad`, without the gradient.

    >>> import jax, jax.numpy as jnp
    >>> from flax import nnx
    >>> from jaxgpt.config import GPTConfig
    >>> from jaxgpt.model.loss import next_token_loss
    >>> from jaxgpt.parallel.mesh import one_device
    >>> model = GPT(GPTConfig.preset("tiny"), rngs=nnx.Rngs(0))
    >>> value, aux = jax.jit(mean_loss(next_token_loss, one_device()))(model, jnp.ones((2, 9), int))
    >>> value.shape, aux
    ((), {})
    """

    def of_batch(model: GPT, tokens: Any, key: Array | None = None, *frozen: GPT) -> Value:
        key = _checked(mesh, microbatches, tokens, key)
        unsharders = [Unsharder.of(each, mesh) for each in (model, *frozen)]

        def on_one_device(tokens: Any, key: Array | None, *models: GPT) -> Value:
            model, *frozen = _views(models, unsharders)

            def add(total: Array, piece: tuple[Any, Array | None]) -> tuple[Array, Aux]:
                value, aux = _with_aux(loss(model, *piece, *frozen))
                return total + value, aux

            if microbatches == 1:
                value = _with_aux(loss(model, tokens, key, *frozen))
            else:
                total, aux = jax.lax.scan(add, _zero(tokens), _microbatches((tokens, key), microbatches))
                value = total / microbatches, jax.tree.map(partial(jnp.mean, axis=0), aux)
            return jax.tree.map(lambda total: total / mesh.size, _sum_over_devices(value, tokens, axes))

        axes = batch_axes(mesh)
        rows = P(axes or None)
        inputs = (rows, rows, *(each.specs for each in unsharders))
        return jax.shard_map(on_one_device, mesh=mesh, in_specs=inputs, out_specs=P())(tokens, key, model, *frozen)

    return of_batch


def _check_options(microbatches: int, zero: int, remat: str, grad_dtype: str) -> None:
    if microbatches < 1:
        raise UserError(f"microbatches={microbatches} must be at least 1")
    for name, value, known in (
        ("zero", zero, (1, 2, 3)),
        ("remat", remat, ("none", "block", "full")),
        ("grad_dtype", grad_dtype, ("float32", "bfloat16")),
    ):
        if value not in known:
            raise UserError(f"{name}={value!r} is unknown; known: {', '.join(map(str, known))}")


def _checked(mesh: Mesh, microbatches: int, tokens: Any, key: Array | None) -> Array | None:
    """A key for each row. Raises UserError where the rows cannot be shared out."""
    rows = jax.tree.leaves(tokens)[0].shape[0]
    check_batch(rows, mesh.size, microbatches)
    return key_per_row(key, rows)


def _views(models: tuple[GPT, ...], unsharders: list[Unsharder]) -> list[GPT]:
    """Of models that get no gradient: nothing is recomputed."""
    return [unsharder.view(shards, zero=2) for unsharder, shards in zip(unsharders, models, strict=True)]


def _with_aux(found: Any) -> Value:
    return found if isinstance(found, tuple) else (found, {})


def _accumulate(
    value_and_grad: Callable[..., tuple[Value, GPT]], model: GPT, tokens: Any, key: Array | None, microbatches: int
) -> tuple[Value, GPT]:
    """The mean value and gradient over microbatches computed one after another, summed in float32."""
    if microbatches == 1:
        return value_and_grad(model, tokens, key)

    def add(sums: tuple[Array, GPT], piece: tuple[Any, Array | None]) -> tuple[tuple[Array, GPT], Aux]:
        (loss, aux), grads = value_and_grad(model, *piece)
        return jax.tree.map(jnp.add, sums, (loss, grads)), aux

    zeros = (_zero(tokens), jax.tree.map(jnp.zeros_like, model))
    sums, aux = jax.lax.scan(add, zeros, _microbatches((tokens, key), microbatches))
    loss, grads = jax.tree.map(lambda total: total / microbatches, sums)
    return (loss, jax.tree.map(partial(jnp.mean, axis=0), aux)), grads


def _microbatches(rows: Any, count: int) -> Any:
    return jax.tree.map(lambda array: array.reshape(count, -1, *array.shape[1:]), rows)


def _zero(tokens: Any) -> Float[Array, ""]:
    """0, varying over devices as the tokens do."""
    return jnp.zeros_like(jax.tree.leaves(tokens)[0], jnp.float32, shape=())


def _sum_over_devices(numbers: Any, tokens: Any, axes: tuple[str, ...]) -> Any:
    """Sums over all devices. What does not depend on the rows is cast to varying, by adding a 0 that does."""
    zero = _zero(tokens)
    return jax.lax.psum(jax.tree.map(lambda number: number + zero, numbers), axes)


def _pcast_varying(leaf: Array, spec: P, axes: tuple[str, ...]) -> Array:
    """Cast to device-varying, so that autodiff inserts no psum; gradients are reduced once, after accumulation."""
    shared_over = tuple(axis for axis in axes if axis not in spec)
    return jax.lax.pcast(leaf, shared_over, to="varying") if shared_over else leaf


def _all_reduce(gradient: Array, spec: P, axes: tuple[str, ...], dtype: str) -> Array:
    """The sum over the mesh axes that do not shard it, in `dtype` between devices and float32 at rest."""
    summed_over = tuple(axis for axis in axes if axis not in spec)
    return jax.lax.psum(gradient.astype(dtype), summed_over).astype(jnp.float32) if summed_over else gradient
