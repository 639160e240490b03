"""Functions of an array library that are replaced by our own, where the library's do not do what was asked for."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import Any

from xpmlp._typing import Array

Replaced = tuple[tuple[str, Callable[..., Array]], ...]  # by name

captured_matmul: ContextVar[Callable[[Array, Array], Array] | None] = ContextVar("xpmlp_matmul", default=None)
"""What multiplies CuPy's arrays in place of CuPy, which refuses its own products while a stream captures."""

MOST_JOINED = 8  # arrays that CuPy joins by copies on the device; of more it brings a table of pointers over


class Namespace(ModuleType):
    """A library's namespace with some functions replaced; all else is the library's."""

    def __init__(self, library: ModuleType, replaced: Replaced) -> None:
        super().__init__(library.__name__, library.__doc__)
        self._library = library
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)


def cupy_matmul(a: Array, b: Array) -> Array:
    """CuPy's product, or that of the runner which captures."""
    matmul = captured_matmul.get() or import_module("array_api_compat.cupy").matmul
    return matmul(a, b)


def cupy_concat(arrays: Sequence[Array], /, *, axis: int | None = 0) -> Array:
    """CuPy's, a few arrays at a time: so it copies nothing from the host, which a capture would refuse."""
    concat, arrays = import_module("array_api_compat.cupy").concat, list(arrays)
    while len(arrays) > MOST_JOINED:
        parts = range(0, len(arrays), MOST_JOINED)
        arrays = [concat(arrays[i : i + MOST_JOINED], axis=axis) for i in parts]
    return concat(arrays, axis=axis)


def cupy_sign(x: Array) -> Array:
    """The sign of real numbers, NaN of NaN: array-api-compat's reads a mask to the host, which a capture refuses."""
    cupy = import_module("cupy")
    return cupy.where(cupy.isnan(x), x, cupy.sign(x))  # CuPy's own sign of NaN is 0


def jax_matmul(a: Array, b: Array) -> Array:
    """JAX's product in the precision of its factors, unless the user has set JAX's own default.

    That default is TF32 on NVIDIA's cards since Ampere, and bfloat16 on TPUs (jax.lax.Precision).
    """
    jax = import_module("jax")
    asked = jax.config.jax_default_matmul_precision
    return jax.numpy.matmul(a, b, precision="highest" if asked is None else None)
