"""The array libraries: how to import each, how to prove that it works, which devices it has, what to say if it fails.

To add one, write its functions and one row of BACKENDS; the tests read the table. Nothing is imported or probed before
somebody asks: a CUDA context made at import breaks forked children, and a sleeping GPU takes ten seconds to answer.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import functools
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Set
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import array_api_compat
import numpy as np

from xpmlp._typing import Array, Device, Namespace

HostArray = np.ndarray[Any, Any]


class State(enum.StrEnum):
    """What stands between a backend and its first product."""

    OK = "ok"
    NOT_INSTALLED = "not installed"
    BROKEN_INSTALL = "broken install"
    NO_DRIVER = "no driver"
    DRIVER_TOO_OLD = "driver too old"
    NO_DEVICE = "no device"
    LIBRARIES_MISSING = "libraries missing"
    DRIVER_ERROR = "driver error"


@dataclass(frozen=True)
class Probe:
    """What was found when a backend was tried on this machine."""

    state: State
    version: str | None  # of the library; None where it cannot be imported
    devices: tuple[str, ...]  # names that `device=` accepts here, the default one first
    message: str
    hint: str  # what to do about it; "" when ok


class BackendFallbackWarning(UserWarning):
    """The named backend or device cannot run here, so NumPy does the work."""


class PrecisionWarning(UserWarning):
    """The device has no float64, so the numbers are kept in float32."""


class BackendUnavailableError(RuntimeError):
    """The named backend or device cannot run here; `state` says what is in the way and `hint` what to do about it."""

    def __init__(self, message: str, state: State, hint: str) -> None:
        super().__init__(message, state, hint)  # all three in `args`, or it could not come back from a worker process
        self.state = state
        self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0])


# --- The rows' functions, library by library ---


def _cupy_device(name: str | None) -> Device:
    cupy = import_module("cupy")
    runtime = cupy.cuda.runtime
    driver, wheel = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:  # no exception: CuPy's way to say that it found no libcuda at all
        message = "there is no NVIDIA driver (libcuda) on this machine"
        raise BackendUnavailableError(message, State.NO_DRIVER, "install the NVIDIA driver")
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == 35:  # cudaErrorInsufficientDriver
            knows, needs = (f"CUDA {version // 1000}.{version % 1000 // 10}" for version in (driver, wheel))
            message = f"the NVIDIA driver knows {knows}, and this CuPy wheel needs {needs}"
            hint = f"pip install 'xpmlp[cuda{driver // 1000}]' in place of this wheel, or install a newer NVIDIA driver"
            raise BackendUnavailableError(message, State.DRIVER_TOO_OLD, hint) from error
        if error.status != 100:  # cudaErrorNoDevice
            message = f"the NVIDIA driver does not start: {_reason(error)}"
            hint = "see what nvidia-smi says; reload the driver or restart the machine"
            raise BackendUnavailableError(message, State.DRIVER_ERROR, hint) from error
        count = 0
    if count == 0:
        message = "the NVIDIA driver sees no CUDA device"
        raise BackendUnavailableError(message, State.NO_DEVICE, "check nvidia-smi and CUDA_VISIBLE_DEVICES")
    if name is None:
        return cupy.cuda.Device()
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        raise _no_device(name, _cupy_devices())
    return cupy.cuda.Device(index)


def _cupy_devices() -> list[str]:
    return [f"cuda:{i}" for i in range(import_module("cupy").cuda.runtime.getDeviceCount())]


def _torch_device(name: str | None) -> Device:
    try:  # ask a tensor: its device is "cuda:0" where the name was "cuda", and the user's default where it was None
        return import_module("torch").empty(0, device=name).device
    except Exception as error:  # AssertionError, RuntimeError or NotImplementedError, by build and device
        if "no NVIDIA driver" in str(error):
            state, hint = State.NO_DRIVER, "install the NVIDIA driver"
        elif "driver on your system is too old" in str(error):
            state, hint = State.DRIVER_TOO_OLD, "install a newer NVIDIA driver, or a PyTorch build for an older CUDA"
        else:
            raise _no_device(str(name), _torch_devices(), "https://pytorch.org/get-started") from error
        raise BackendUnavailableError(f"device {name!r} does not start: {_reason(error)}", state, hint) from error


def _torch_devices() -> list[str]:
    # Not the namespace's own list: that tries every kind of device that torch has ever known.
    torch = import_module("torch")
    found = [f"{kind}:{i}" for kind in ("cuda", "xpu") for i in range(getattr(torch, kind).device_count())]
    return ["cpu", *found, *(["mps"] if torch.backends.mps.is_available() else [])]


def _torch_from_numpy(array: HostArray, xp: Namespace, device: Device) -> Array:
    # torch shares the memory. It warns where that is read-only, and refuses strides that run back or cut an item.
    if not array.flags.writeable or any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return xp.asarray(array, device=device)


def _torch_to_numpy(array: Array) -> HostArray:
    # `force` detaches and moves; from the CPU comes the tensor's own memory.
    return np.array(array.numpy(force=True), order="C", copy=True if array.device.type == "cpu" else None)


def _jax_device(name: str | None) -> Device:
    if name is None:
        return import_module("jax.numpy").empty(0).device  # follows jax.default_device
    kind, _, index = name.partition(":")
    try:
        found = import_module("jax").devices(kind)
    except RuntimeError:
        found = []
    if int(index or 0) >= len(found):
        raise _no_device(name, _jax_devices(), "https://docs.jax.dev/en/latest/installation.html")
    return found[int(index or 0)]


def _jax_devices() -> list[str]:
    jax = import_module("jax")
    return list(dict.fromkeys(_jax_device_name(device) for device in [*jax.devices(), *jax.devices("cpu")]))


def _jax_device_name(device: Device) -> str:
    if not hasattr(device, "platform"):
        return str(device)  # a sharding over several devices, or None: a traced array is nowhere
    if device.platform == "cpu" and device.id == 0:
        return "cpu"
    return f"{'cuda' if device.platform == 'gpu' else device.platform}:{device.id}"


def _strict_device(name: str | None) -> Device:
    xp = import_module("array_api_strict")
    if name is None:
        return xp.empty(0).device
    if name not in _strict_devices():
        raise _no_device(name, _strict_devices())
    return xp.Device(name)


def _strict_devices() -> list[str]:
    info = import_module("array_api_strict").__array_namespace_info__()
    return [_strict_device_name(device) for device in info.devices()]


def _strict_device_name(device: Device) -> str:
    return str(device).split("'")[1]  # array_api_strict.Device('device1')


def _strict_to_numpy(array: Array) -> HostArray:
    return np.array(array.to_device(import_module("array_api_strict").Device("CPU_DEVICE")), order="C")


def _strict_lacks(device: Device) -> Set[str]:
    return DTYPES - set(import_module("array_api_strict").__array_namespace_info__().dtypes(device=device))


def _no_device(name: str, there: list[str], builds: str = "") -> BackendUnavailableError:
    elsewhere = f", or install a build for {name!r}: {builds}" if builds else ""
    hint = f"choose one of {', '.join(there)}{elsewhere}"
    return BackendUnavailableError(f"there is no device {name!r} here", State.NO_DEVICE, hint)


# --- The table ---

NARROWER = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}
"""What stands in for a dtype that a device lacks."""

DTYPES = frozenset({"bool", "int8", "int16", "uint8", "uint16", "float16", *NARROWER, *NARROWER.values()})
"""What moves between libraries: the dtypes of the Array API, and float16."""


@dataclass(frozen=True)
class Backend:
    """One row of BACKENDS: what the package must know about one array library."""

    name: str
    label: str  # what its users call it
    noun: str  # what its users call an array
    module: str  # the Array API namespace
    package: str  # what must be importable
    install: str
    device_kinds: tuple[str, ...]  # the part of a device name before the colon
    owns: Callable[[object], bool]  # is this an array of the library? Never imports it
    find_device: Callable[[str | None], Device]  # by name, None the default one; raises BackendUnavailableError
    devices: Callable[[], list[str]]
    device_name: Callable[[Device], str]
    to_numpy: Callable[[Array], HostArray]  # fresh, writable, C-contiguous
    from_numpy: Callable[[HostArray, Namespace, Device], Array] = lambda array, xp, device: xp.asarray(
        array, device=device
    )
    lacks: Callable[[Device], Set[str]] = lambda _device: frozenset()  # the dtypes that the device does not have
    float64_hint: str = ""  # how to get float64 where it is lacking
    runner: str = "eager"  # who executes steps

    @property
    def xp(self) -> Namespace:
        """The namespace; the first look imports the library."""
        return import_module(self.module)


BACKENDS = {
    row.name: row
    for row in (
        Backend(
            name="numpy",
            label="NumPy",
            noun="NumPy array",
            module="array_api_compat.numpy",
            package="numpy",
            install="pip install numpy",
            device_kinds=("cpu",),
            owns=array_api_compat.is_numpy_array,
            find_device=lambda _name: "cpu",
            devices=lambda: ["cpu"],
            device_name=str,
            to_numpy=np.asanyarray,  # the one that is handed back as it is
        ),
        Backend(
            name="cupy",
            label="CuPy",
            noun="CuPy array",
            module="array_api_compat.cupy",
            package="cupy",
            install="pip install 'xpmlp[cuda13]', or 'xpmlp[cuda12]' for a driver older than 580",
            device_kinds=("cuda",),
            owns=array_api_compat.is_cupy_array,
            find_device=_cupy_device,
            devices=_cupy_devices,
            device_name=lambda device: f"cuda:{device.id}",
            to_numpy=lambda array: array.get(order="C"),
        ),
        Backend(
            name="torch",
            label="PyTorch",
            noun="PyTorch tensor",
            module="array_api_compat.torch",
            package="torch",
            install="pip install 'xpmlp[torch]'",
            device_kinds=("cpu", "cuda", "mps", "xpu"),
            owns=array_api_compat.is_torch_array,
            find_device=_torch_device,
            devices=_torch_devices,
            device_name=lambda device: {"mps:0": "mps"}.get(str(device), str(device)),
            to_numpy=_torch_to_numpy,
            from_numpy=_torch_from_numpy,
            lacks=lambda device: {"float64", "complex128"} if device.type == "mps" else set(),
        ),
        Backend(
            name="jax",
            label="JAX",
            noun="JAX array",
            module="jax.numpy",
            package="jax",
            install="pip install 'xpmlp[jax]'",
            device_kinds=("cpu", "cuda", "gpu", "rocm", "tpu"),
            owns=array_api_compat.is_jax_array,
            find_device=_jax_device,
            devices=_jax_devices,
            device_name=_jax_device_name,
            to_numpy=lambda array: np.array(array, order="C"),  # np.asarray would be a read-only view of JAX's buffer
            lacks=lambda _device: set() if import_module("jax").config.jax_enable_x64 else set(NARROWER),
            float64_hint='; jax.config.update("jax_enable_x64", True) turns it on',  # for the user: we never do
        ),
        Backend(
            name="array_api_strict",
            label="array-api-strict",
            noun="array-api-strict array",
            module="array_api_strict",
            package="array_api_strict",
            install="pip install array-api-strict",
            device_kinds=("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64"),
            owns=lambda array: type(array).__module__.partition(".")[0] == "array_api_strict",
            find_device=_strict_device,
            devices=_strict_devices,
            device_name=_strict_device_name,
            to_numpy=_strict_to_numpy,
            lacks=_strict_lacks,
        ),
    )
}


# --- Probing ---


def probe(name: str, device: str | None = None) -> Probe:
    """Try backend `name` (on `device`, or on its default device) and say what was found.

    A 2 x 2 product and a sum are computed and compared, because an allocation proves nothing: CuPy allocates happily
    without cuBLAS and without the compiler that every kernel needs. The answer is kept; `forget_probes` drops it.

    Raises
    ------
    ValueError
        If there is no such backend, or no such device name. What this machine lacks is not an error but a `State`.

    Examples
    --------
    >>> from xpmlp.backends import probe
    >>> str(probe("numpy").state)
    'ok'
    """
    row = _row(name)
    _check_device_name(row, device)
    return _probe(row, device)


def forget_probes() -> None:
    """Probe anew next time: a driver was installed, a device became visible."""
    _probe.cache_clear()


@functools.cache
def _probe(row: Backend, device: str | None) -> Probe:
    if find_spec(row.package) is None:
        return Probe(State.NOT_INSTALLED, None, (), f"{row.label} is not installed", row.install)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a library mutters on its way up is said better in the message below
        try:
            version = str(import_module(row.package).__version__)
            xp = row.xp
        except Exception as error:  # noqa: BLE001 - a broken package may raise anything
            message = f"{row.label} is installed but cannot be imported: {_reason(error)}"
            hint = f"reinstall it ({row.install}), and keep only one build of it"
            return Probe(State.BROKEN_INSTALL, None, (), message, hint)
        label = f"{row.label} {version}"
        try:
            there = row.find_device(device)
        except BackendUnavailableError as obstacle:
            return Probe(obstacle.state, version, (), f"{label} is installed, but {obstacle}", obstacle.hint)
        devices, where = tuple(row.devices()), row.device_name(there)
        try:
            a = xp.reshape(xp.arange(4, dtype=xp.float32, device=there), (2, 2))
            total = float(xp.sum(xp.matmul(a, a) + 1.0))
            if total != 26.0:
                message = f"{label} computes wrong numbers on {where}: {total} instead of 26.0"
                return Probe(State.DRIVER_ERROR, version, devices, message, "test the device, update its driver")
        except Exception as error:  # noqa: BLE001 - so may a broken driver
            # A missing CUDA library has three faces in CuPy: ImportError (cuBLAS), DynamicLibNotFoundError (NVRTC),
            # CompileException (NVRTC without its headers). The last two cannot be named here without importing CuPy.
            faces = {"DynamicLibNotFoundError", "CompileException", "NVRTCError"}
            message = f"{label} sees {where}, but cannot compute on it: {_reason(error)}"
            if isinstance(error, ImportError | OSError) or type(error).__name__ in faces:
                hint = f"install it with the libraries it needs: {row.install}"
                return Probe(State.LIBRARIES_MISSING, version, devices, message, hint)
            hint = "see that the device has free memory, and that its driver fits the library"
            return Probe(State.DRIVER_ERROR, version, devices, message, hint)
    return Probe(State.OK, version, devices, f"{label} works on {where}", "")


def _reason(error: Exception) -> str:
    # The line that matters: CuPy wraps an import error in a banner and puts the cause after "Original error:".
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =*-")]
    if "Original error:" in lines[:-1]:
        return lines[lines.index("Original error:") + 1]
    return textwrap.shorten(": ".join([type(error).__name__, *lines[:1]]), 200, placeholder=" ...")


# --- Settings ---

_fallback: ContextVar[str] = ContextVar("xpmlp_fallback", default="warn")


def get_config() -> dict[str, str]:
    """Return the settings in force, as a dict that `set_config` takes."""
    return {"fallback": _fallback.get()}


def set_config(*, fallback: str | None = None) -> None:
    """Change settings for what follows in this thread (as scikit-learn does); None leaves a setting as it is.

    Parameters
    ----------
    fallback : {"warn", "error"}, optional
        What happens when a named backend or device cannot run here: "warn" issues a `BackendFallbackWarning` and goes
        on with NumPy, "error" raises `BackendUnavailableError`.
    """
    if fallback is None:
        return
    if fallback not in ("warn", "error"):
        raise ValueError(f"fallback must be 'warn' or 'error'; got {fallback!r}.")
    _fallback.set(fallback)


@contextlib.contextmanager
def config_context(*, fallback: str | None = None) -> Iterator[None]:
    """Change settings inside a `with` block; see `set_config`.

    Examples
    --------
    >>> import xpmlp
    >>> with xpmlp.config_context(fallback="error"):
    ...     xpmlp.get_config()
    {'fallback': 'error'}
    """
    before = get_config()
    set_config(fallback=fallback)
    try:
        yield
    finally:
        set_config(**before)


# --- Places ---


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
    def float64(self) -> bool:
        """Whether float64 can be had here, now: JAX has it only while its x64 mode is on."""
        return "float64" not in self.backend.lacks(self.device)

    def asarray(self, array: HostArray, dtype: str | None = None) -> Array:
        """Bring a NumPy array here, as `dtype` (a name) or as it is; the memory is shared where the library can.

        Where the device lacks the dtype, half its width serves: floats with a `PrecisionWarning`, integers if they fit.
        """
        wanted = array.dtype.name if dtype is None else dtype
        if self.backend.name == "numpy":
            return array if wanted == array.dtype.name else array.astype(wanted)
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
        raise ValueError(f"device={device!r} needs a backend; name one of {_names()}.")
    row = _row("numpy" if backend is None else backend)
    found = probe(row.name, device)
    if found.state is State.OK:
        return Place(row, row.xp, row.find_device(device))
    asked = f"backend {row.name!r}" + ("" if device is None else f", device {device!r},")
    message = f"{asked} cannot run here: {found.state} ({found.message})."
    cure = f"What to do: {found.hint}."
    if _fallback.get() == "error":
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


def available_backends() -> list[str]:
    """Return the names of the backends that work on this machine. The first call imports and tries each of them."""
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
        xp = _NAMESPACES[type(array)] = array_api_compat.array_namespace(array)
    return xp


def backend_of(array: object) -> Backend | None:
    """Return the row whose library made this array, or None. Imports nothing."""
    return next((row for row in BACKENDS.values() if row.owns(array)), None)


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the caller's own line, the first one outside this package, however deep we are."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "xpmlp":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _place(name: str, array: object) -> Place:
    row = backend_of(array)
    if row is None:
        raise TypeError(f"{name} must be an array of {_names()}; got {type(array).__name__}.")
    return Place(row, array_namespace(array), array_api_compat.device(array))


def _names() -> str:
    return ", ".join(sorted(BACKENDS))


def _row(name: str) -> Backend:
    if not isinstance(name, str):
        raise TypeError(f"a backend is named by a string, one of {_names()}; got {type(name).__name__}.")
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}{_did_you_mean(name, BACKENDS)} Choose one of {_names()}.")
    return BACKENDS[name]


def _check_device_name(row: Backend, device: str | None) -> None:
    if device is None:
        return
    if not isinstance(device, str):
        raise TypeError(f"a device is named by a string such as 'cpu' or 'cuda:0'; got {type(device).__name__}.")
    if not re.fullmatch(r"\w+(:\d+)?", device):
        raise ValueError(f"a device is named like 'cpu', 'cuda' or 'cuda:1'; got {device!r}.")
    kind = device.partition(":")[0]
    if kind not in row.device_kinds:
        kinds = ", ".join(row.device_kinds)
        raise ValueError(f"{row.label} has no device {device!r}{_did_you_mean(kind, row.device_kinds)} It has {kinds}.")


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
