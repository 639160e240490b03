"""Matrix products that are not the library's own: every namespace of BACKENDS multiplies as was asked for."""

from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any

from xpmlp._typing import Array

MatMul = Callable[[Array, Array], Array]

captured_matmul: ContextVar[MatMul | None] = ContextVar("xpmlp_captured_matmul", default=None)
"""What multiplies CuPy's arrays in place of CuPy, which refuses its own products while a stream captures."""


class WithProduct(ModuleType):
    """A library's namespace with another `matmul`; all else is the library's."""

    def __init__(self, library: ModuleType, matmul: MatMul) -> None:
        super().__init__(library.__name__, library.__doc__)
        self._library = library
        self.matmul = matmul

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def cupy_matmul(a: Array, b: Array) -> Array:
    """CuPy's product, or that of the runner which is capturing."""
    matmul = captured_matmul.get() or import_module("array_api_compat.cupy").matmul
    return matmul(a, b)


def jax_matmul(a: Array, b: Array) -> Array:
    """JAX's product in the precision of its factors, unless the user has set JAX's own default.

    That default would be TF32 on NVIDIA's cards since Ampere, and bfloat16 on TPUs (jax.lax.Precision).
    """
    jax = import_module("jax")
    asked = jax.config.jax_default_matmul_precision
    return jax.numpy.matmul(a, b, precision="highest" if asked is None else None)
