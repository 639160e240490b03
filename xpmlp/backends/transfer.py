"""The ferry: bring an array to another library, to another device, or home to NumPy.

Every pair of libraries goes by way of the host, where each row of BACKENDS knows the way in and out: a pair that took a
short cut would be a pair to test on its own. Nothing in the maths calls these functions.
"""

from __future__ import annotations

import math

import array_api_compat
import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import DTYPES, HostArray, Place, backend_of, place_of, select
from xpmlp.backends.kinds import oddity


def to_backend(x: object, backend: str, *, device: str | None = None, dtype: object = None) -> Array:
    """Bring `x` to a backend.

    Parameters
    ----------
    x : array or array-like
        An array of any backend, or what NumPy makes one of: a number, a list, a list of lists.
    backend : str
        "numpy", "cupy", "torch", "jax" or "array_api_strict". Where it cannot run, `x` goes to NumPy with a
        `BackendFallbackWarning`, or not at all: see `set_config`.
    device : str, optional
        For instance "cpu" or "cuda:1". By default an array of that backend stays where it is, and any other goes to the
        backend's default device.
    dtype : str, optional
        For instance "float32"; by default that of `x`. Where the device lacks it, half its width serves: a float64
        becomes float32 with a `PrecisionWarning`, an int64 becomes int32 if it fits.

    Returns
    -------
    array
        `x` itself if nothing had to be done. Otherwise an array that may share memory with `x`, as `asarray` may: copy
        it before you write into it.

    Raises
    ------
    ValueError
        If there is no such backend or device name, or if an integer does not fit.
    TypeError
        If `x` does not hold numbers or booleans.

    Examples
    --------
    >>> import xpmlp
    >>> xpmlp.to_backend([1, 2, 3], "numpy", dtype="float32")
    array([1., 2., 3.], dtype=float32)
    """
    if odd := oddity(x, "x"):
        raise TypeError(odd)
    array = _as_array(x)
    source, place = place_of(x=array), select(backend, device)
    if device is None and source.backend is place.backend:
        place = source
    return _ferry(array, source, place, None if dtype is None else _dtype_name(dtype))


def to_device(x: Array, device: str) -> Array:
    """Bring an array to another device of its own library; `x` itself if it is there already.

    Where there is no such device, `x` goes to NumPy with a `BackendFallbackWarning`, or not at all: see `set_config`.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> xpmlp.to_device(np.ones(2), "cpu")
    array([1., 1.])
    """
    source = place_of(x=x)
    return _ferry(x, source, select(source.backend.name, device), None)


def to_numpy(x: object) -> HostArray:
    """Bring an array home.

    A NumPy array is returned as it is. From any other library comes a copy of your own: writable, C-contiguous,
    detached from gradients, never a view of the library's memory (which JAX holds to be constant).

    Examples
    --------
    >>> import xpmlp
    >>> xpmlp.to_numpy(xpmlp.to_backend([1.0, 2.0], "numpy"))
    array([1., 2.])
    """
    row = backend_of(x)
    return np.asarray(x) if row is None else row.to_numpy(x)


def _ferry(array: Array, source: Place, place: Place, dtype: str | None) -> Array:
    with np.errstate(over="ignore", under="ignore"):  # what becomes infinite is told below, in our words
        moved = _moved(array, source, place, dtype)
    if source.xp.isdtype(array.dtype, "real floating") and place.xp.isdtype(moved.dtype, "real floating"):
        _demand_nothing_lost(array, source, moved, place)
    return moved


def _demand_nothing_lost(array: Array, source: Place, moved: Array, place: Place) -> None:
    """ValueError where a number has become infinite on its way."""
    if place.xp.finfo(moved.dtype).max >= source.xp.finfo(array.dtype).max or not math.prod(array.shape):
        return
    here, there = (bool(xp.all(xp.isfinite(x))) for xp, x in ((source.xp, array), (place.xp, moved)))
    if here and not there:
        largest = float(source.xp.max(source.xp.abs(array)))
        name = str(moved.dtype).rpartition(".")[2]
        raise ValueError(
            f"x reaches {largest:.3g}, and {name} ends at {float(place.xp.finfo(moved.dtype).max):.3g}; scale it first."
        )


def _moved(array: Array, source: Place, place: Place, dtype: str | None) -> Array:
    is_ = str(array.dtype).rpartition(".")[2]  # "float32", "torch.float32", "array_api_strict.float32"
    wanted = is_ if dtype is None else dtype
    lacking = source.backend.lacks(source.device) | place.backend.lacks(place.device)
    if source.backend is place.backend and lacking.isdisjoint({is_, wanted}):
        there = source.device == place.device
        moved = array if there else array_api_compat.to_device(array, place.device)
        return moved if wanted == is_ else place.xp.astype(moved, getattr(place.xp, wanted))
    return place.asarray(source.backend.to_numpy(array), dtype)


def _as_array(x: object) -> Array:
    if (
        backend_of(x) is not None
        and not isinstance(x, np.generic)
        and getattr(getattr(x, "dtype", None), "kind", "") != "O"
    ):
        return x
    try:
        array = np.asarray(x)
    except ValueError:
        raise ValueError("x must be rectangular: every row needs the same number of columns.") from None
    if array.dtype.kind not in "biufc":
        raise TypeError(f"x must hold numbers or truth values; got a {type(x).__name__}, of dtype {array.dtype}.")
    return array


def _dtype_name(dtype: object) -> str:
    try:
        name = np.dtype(dtype).name  # type: ignore[call-overload]  # what it is not meant for, it refuses
    except TypeError:
        name = ""
    if name not in DTYPES:
        raise TypeError(f"dtype must name a dtype of the Array API, such as 'float32'; got {dtype!r}.")
    return str(name)
