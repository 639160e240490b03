"""Where arrays live: the place that was asked for, or the place where an array is."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, TypeVar

import array_api_compat
import numpy as np

from xpmlp._typing import Array, Device, Namespace
from xpmlp.backends.config import get_config
from xpmlp.backends.probing import backend_named, backend_names, probe
from xpmlp.backends.table import BACKENDS, DTYPES, NARROWER, Backend, BackendUnavailableError, HostArray, State
from xpmlp.faults import telling_of_memory

Method = TypeVar("Method", bound=Callable[..., Any])

DEVICE_BLOCK_BYTES = 2**26


class BackendFallbackWarning(UserWarning):
    """The named backend or device cannot run here, so NumPy does the work."""


class PrecisionWarning(UserWarning):
    """The device has no float64, so the numbers are kept in float32."""


@dataclass(frozen=True)
class Place:
    """Where arrays live: a backend, its namespace, one of its devices."""

    backend: Backend
    xp: Namespace
    device: Device = field(hash=False)  # CuPy's devices compare but do not hash

    @property
    def device_name(self) -> str:
        """The device as `device=` spells it: "cpu", "cuda:0"."""
        return self.backend.device_name(self.device)

    @property
    def on_cpu(self) -> bool:
        """Whether arrays live in the memory of the processor, whatever the library calls it."""
        return self.device_name.lower().startswith("cpu")

    @property
    def block_bytes(self) -> int:
        """How large the arrays of a block of samples should be that are only looked at.

        On a processor they stay in its cache; a device is given more, for there a call costs what many samples do.
        (100,000 samples, float32, 54-256-128-7, one thread: blocks of 64 MiB took PyTorch and JAX 1.3 to 3 times as
        long as blocks of 4 or 16.)
        """
        return self.backend.cached_bytes if self.on_cpu else DEVICE_BLOCK_BYTES

    @property
    def float64(self) -> bool:
        """Whether float64 can be had here, now: JAX has it only while its x64 mode is on."""
        return "float64" not in self.backend.lacks(self.device)

    def here(self) -> AbstractContextManager[Any]:
        """Within it the library's results are made on this device; every public door of the package enters it."""
        return self.backend.here(self.device)

    def asarray(self, array: HostArray, dtype: str | None = None) -> Array:
        """Bring a NumPy array here, as `dtype` (a name) or as it is; the memory is shared where the library can.

        Where the device lacks the dtype, half its width serves: floats with a `PrecisionWarning`, integers if they fit.
        """
        wanted = array.dtype.name if dtype is None else dtype
        if self.backend.name == "numpy":
            as_it_is = wanted == array.dtype.name and (dtype is None or array.dtype.isnative)
            return array if as_it_is else array.astype(wanted)
        name = self.dtype_name(wanted)
        if name != wanted and "int" in wanted and array.size:
            holds = np.iinfo(name)
            for extreme in (int(array.min()), int(array.max())):
                if not holds.min <= extreme <= holds.max:
                    raise ValueError(f"{self} has no {wanted}, and {name} cannot hold {extreme}.")
        array = array.astype(np.dtype(name), copy=False)  # also into this machine's byte order
        return self.backend.from_numpy(array, self.xp, self.device)

    def dtype_name(self, wanted: str) -> str:
        """Return the dtype that stands for `wanted` here, both by name: itself, or half as wide where it is lacking."""
        if wanted not in DTYPES:
            raise TypeError(f"{self.backend.noun}s hold numbers and booleans; got dtype {wanted}.")
        if wanted not in self.backend.lacks(self.device):
            return wanted
        if wanted not in NARROWER:
            raise TypeError(f"{self} has no {wanted}.")
        narrower = NARROWER[wanted]
        if wanted in ("float64", "complex128"):
            warn(f"{self} has no {wanted}: going on in {narrower}{self.backend.float64_hint}.", PrecisionWarning)
        return narrower

    def describe(self, plural: bool = False) -> str:
        """Name an array that lives here: "a NumPy array", "CuPy arrays on cuda:0"."""
        noun = self.backend.noun
        where = "" if self.backend.name == "numpy" or self.device is None else f" on {self.device_name}"
        return f"{noun}s{where}" if plural else f"{'an' if noun[0] == 'a' else 'a'} {noun}{where}"

    def __reduce__(self) -> tuple[Callable[..., Place], tuple[str, str]]:
        # By name: where the library cannot run, a pickle opens on NumPy, with a warning.
        return select, (self.backend.name, self.device_name)

    def __str__(self) -> str:
        return f"{self.backend.label} on {self.device_name}"


def select(backend: str | None, device: str | None = None) -> Place:
    """Find the place that was asked for, or NumPy where that cannot run and the settings allow it.

    Parameters
    ----------
    backend : str or None
        A name of BACKENDS; None is NumPy (to follow an array instead, see `place_of`).
    device : str, optional
        For instance "cpu", "cuda", "cuda:1"; by default the library's default device. Needs a `backend`.

    Raises
    ------
    ValueError, TypeError
        If the names are not names of a backend and of a kind of device that it has: on no machine will they work.
    BackendUnavailableError
        If the place cannot be had here and `fallback` is "error"; with "warn" it is a `BackendFallbackWarning`.
    """
    if backend is None and device is not None:
        raise ValueError(f"device={device!r} needs a backend; name one of {backend_names()}.")
    row = backend_named("numpy" if backend is None else backend)
    found = probe(row.name, device)
    if found.state is State.OK:
        return Place(row, row.xp, row.find_device(device))
    asked = f"backend {row.name!r}" + ("" if device is None else f", device {device!r},")
    message = f"{asked} cannot run here: {found.state} ({found.message})."
    cure = f"What to do: {found.hint}."
    if get_config()["fallback"] == "error":
        raise BackendUnavailableError(f"{message} {cure}", found.state, found.hint)
    warn(f"{message} Going on with NumPy on the CPU. {cure}", BackendFallbackWarning)
    return select("numpy")


def get_backend(name: str, device: str | None = None) -> Place:
    """Return a backend, ready to use: its namespace `xp` and a `device`.

    Where it cannot run, NumPy comes back with a `BackendFallbackWarning`, or a `BackendUnavailableError` is raised:
    see `set_config`.

    Examples
    --------
    >>> import xpmlp
    >>> place = xpmlp.get_backend("numpy")
    >>> place.xp.zeros(2, device=place.device)
    array([0., 0.])
    """
    return select(name, device)


def at_home(
    doing: str, cure: str = "Use fewer samples at once.", of: Callable[[Any], Place] = attrgetter("place")
) -> Callable[[Method], Method]:
    """Make a function a door: it runs on the device of its first argument, and out of memory is one MemoryError.

    `of` tells the place of that argument.
    """

    def decorate(method: Method) -> Method:
        @functools.wraps(method)
        def inside(owner: Any, *args: Any, **kwargs: Any) -> Any:
            place = of(owner)
            with place.here(), telling_of_memory(place, doing, cure):
                return method(owner, *args, **kwargs)

        return inside  # type: ignore[return-value]

    return decorate


def available_backends() -> list[str]:
    """Return the names of the backends that work on this machine. The first call imports and tries each of them.

    JAX that is started on a GPU takes three quarters of its memory, unless XLA_PYTHON_CLIENT_PREALLOCATE is "false".
    """
    return [name for name in BACKENDS if probe(name).state is State.OK]


def place_of(*arrays: Array, **named: Array) -> Place:
    """Return the one place where all the arrays live; keyword arguments lend their names to the error message.

    Raises
    ------
    TypeError
        If one is no array of a known library, or if they come from different libraries.
    ValueError
        If they live on different devices.
    """
    items = [(f"array {i}", array) for i, array in enumerate(arrays, start=1)] + list(named.items())
    if not items:
        raise TypeError("place_of needs at least one array.")
    (first, _), *_ = items
    place = _place(*items[0])
    for name, array in items[1:]:
        other = _place(name, array)
        who = name if name.isidentifier() else "array"
        if other.backend is not place.backend:
            cure = f'move one with xpmlp.to_backend({who}, "{place.backend.name}").'
            raise TypeError(f"{name} is {other.describe()}, {first} is {place.describe()}; {cure}")
        if other.device is not None and place.device is not None and other.device != place.device:
            cure = f'move one with xpmlp.to_device({who}, "{place.device_name}").'
            raise ValueError(f"{name} is {other.describe()}, {first} is {place.describe()}; {cure}")
    return place


_NAMESPACES: dict[type, Namespace] = {}


def array_namespace(array: Array) -> Namespace:
    """Return the namespace of one array: that of a table row, or of any other library that follows the standard.

    A dict lookup, 0.1 microseconds, after the first array of its type: every mathematical function asks once per call.
    """
    xp = _NAMESPACES.get(type(array))
    if xp is None:
        row = backend_of(array)
        xp = row.xp if row is not None else array_api_compat.array_namespace(array)
        _NAMESPACES[type(array)] = xp
    return xp


def device_of(array: Array) -> Device | None:
    """Return the device of one array; None, which stands for the default, where a tracer is nowhere."""
    return getattr(array, "device", None)


def backend_of(array: object) -> Backend | None:
    """Return the row whose library made this array, or None. Imports nothing."""
    return next((row for row in BACKENDS.values() if row.owns(array)), None)


BETWEEN = {"xpmlp"}  # packages whose lines are not the user's


def pass_over(*packages: str) -> None:
    """Say that these call us on behalf of a user, whose line a warning is to name."""
    BETWEEN.update(packages)


_KEPT: ContextVar[list[tuple[str, type[Warning]]] | None] = ContextVar("xpmlp_kept_warnings", default=None)


@contextmanager
def kept_warnings() -> Iterator[list[tuple[str, type[Warning]]]]:
    """Keep warnings in place of giving them: whoever works for somebody elsewhere sends them there."""
    kept: list[tuple[str, type[Warning]]] = []
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the user's own line, however deep we are: the first outside this package and those to `pass_over`."""
    kept = _KEPT.get()
    if kept is not None:
        kept.append((message, category))
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _place(name: str, array: object) -> Place:
    row = backend_of(array)
    if row is None:
        raise TypeError(f"{name} must be an array of {backend_names()}; got {type(array).__name__}.")
    return Place(row, array_namespace(array), array_api_compat.device(array))
