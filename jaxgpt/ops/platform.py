"""Which platform a program is traced for: kernels and their shapes are chosen by it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial, update_wrapper
from pathlib import Path
from typing import Any

import jax
from jax.stages import Lowered, Wrapped

PREFER_VECTOR_WIDTH = ("xla_cpu_prefer_vector_width", 512)
"""Bits. XLA's CPU backend prefers 256 by default, also with AVX-512. With 512 the product of a row and an int8 matrix
reads 30e9 weights a second instead of 24e9 (bfloat16: 18e9, not 15e9). Training is 1.005 to 1.03 times as fast."""
YNN_DOTS_ONLY = ("xla_cpu_experimental_ynn_fusion_type", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT")
"""XLA's CPU backend lowers dots and reductions to the library YNN; this leaves it the dots. With the reductions of
`row_product` in YNN a token of GPT-2 124M takes 2.4 times as long (jax 0.10.2, float32), in int8 7 times (0.12 too)."""

_platform: ContextVar[str | None] = ContextVar("platform", default=None)


def target_platform() -> str:
    """The platform of the program being traced: JAX's default backend, unless `compiling_for` names another."""
    return _platform.get() or jax.default_backend()


def on_gpu(platform: str | None = None) -> bool:
    """Whether that (or `platform`, where given) is an NVIDIA GPU."""
    return (platform or target_platform()) in ("gpu", "cuda")


@cache
def has_bfloat16_units() -> bool:
    """Whether this machine's processor multiplies bfloat16 numbers itself; where Linux does not tell, True."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(told.split()))


def emulates_bfloat16() -> bool:
    """Whether products of bfloat16 numbers are computed in float32 here, which takes longer than float32 alone."""
    return target_platform() == "cpu" and not has_bfloat16_units()


def cpu_compiler_options(*, inference: bool = False) -> dict[str, Any]:
    """Compiler options for a program that runs on this machine's CPU, those that this jaxlib supports.

    Empty for other platforms. A vector width in XLA_FLAGS takes precedence; `YNN_DOTS_ONLY` overrides XLA_FLAGS, where
    `avoid_wrong_sums` sets another value for training.
    """
    if not target_platform() == jax.default_backend() == "cpu":
        return {}
    options: list[tuple[str, Any]] = []
    if PREFER_VECTOR_WIDTH[0] not in os.environ.get("XLA_FLAGS", ""):
        options.append(PREFER_VECTOR_WIDTH)
    if inference:
        options.append(YNN_DOTS_ONLY)
    return {name: value for name, value in options if _is_supported(name, value)}


@cache
def _is_supported(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within, programs are traced for `platform` ("cuda", "cpu"), as when compiling for devices that are not here.

    jax.jit caches traces without knowing of it: inside, use `platform_jit`, or jit a function anew.
    """
    before = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(before)


class platform_jit:  # noqa: N801  used like the function jax.jit
    """jax.jit with a separate cache for each target platform, for programs of inference. Takes jax.jit's options."""

    def __init__(self, function: Callable, **options: Any) -> None:
        self._function, self._options = function, options
        self._jitted: dict[str, Wrapped] = {}
        update_wrapper(self, function)

    def _for_this_platform(self) -> Wrapped:
        name = target_platform()
        if name not in self._jitted:  # jax.jit's cache goes by the function's identity, so each platform has its own
            options = cpu_compiler_options(inference=True)
            function = update_wrapper(partial(self._function), self._function)
            self._jitted[name] = jax.jit(function, compiler_options=options, **self._options)
        return self._jitted[name]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._for_this_platform()(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Lowered:
        """As jax.jit(f).lower."""
        return self._for_this_platform().lower(*args, **kwargs)
