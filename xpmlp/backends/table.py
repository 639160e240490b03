"""BACKENDS, the table of array libraries: how to import each, which devices it has, the way in and the way out.

To add one, write its functions and one row; the tests read the table. Nothing is imported before somebody asks.
"""

from __future__ import annotations

import enum
import functools
import textwrap
from collections.abc import Callable, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import array_api_compat
import numpy as np

from xpmlp._typing import Array, Device, Namespace
from xpmlp.backends.namespaces import Namespace as WithReplaced
from xpmlp.backends.namespaces import Replaced, cupy_concat, cupy_matmul, cupy_sign, jax_matmul

HostArray = np.ndarray[Any, Any]

NARROWER = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}
"""What stands in for a dtype that a device lacks."""

DTYPES = frozenset({"bool", "int8", "int16", "uint8", "uint16", "float16", *NARROWER, *NARROWER.values()})
"""What moves between libraries: the dtypes of the Array API, and float16."""


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


class BackendUnavailableError(RuntimeError):
    """The named backend or device cannot run here; `state` says what is in the way and `hint` what to do about it."""

    def __init__(self, message: str, state: State, hint: str) -> None:
        super().__init__(message, state, hint)  # all three in `args`, or it could not come back from a worker process
        self.state = state
        self.hint = hint

    def __str__(self) -> str:
        return str(self.args[0])


# --- The rows' functions, library by library ---


def _asarray(array: HostArray, xp: Namespace, device: Device) -> Array:
    return xp.asarray(array, device=device)


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
            older = "pip install 'cupy-cuda12x[ctk]>=14' in place of this wheel, or " if driver >= 12000 else ""
            hint = f"{older}install a newer NVIDIA driver"
            raise BackendUnavailableError(message, State.DRIVER_TOO_OLD, hint) from error
        if error.status != 100:  # cudaErrorNoDevice
            message = f"the NVIDIA driver does not start: {reason(error)}"
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
        raise BackendUnavailableError(f"device {name!r} does not start: {reason(error)}", state, hint) from error


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


def _torch_here(device: Device) -> AbstractContextManager[Any]:
    here: AbstractContextManager[Any] = nullcontext()
    return import_module("torch").cuda.device(device) if device.type == "cuda" else here


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


def _jax_from_numpy(array: HostArray, xp: Namespace, device: Device) -> Array:  # noqa: ARG001  # every row's signature
    return import_module("jax").device_put(array, device)  # a third of the time of jax.numpy.asarray


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


def reason(error: Exception) -> str:
    """Return the one line of an error that matters."""
    # CuPy wraps an import error in a banner and puts the cause after "Original error:".
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" =*-")]
    if "Original error:" in lines[:-1]:
        return lines[lines.index("Original error:") + 1]
    return textwrap.shorten(": ".join([type(error).__name__, *lines[:1]]), 200, placeholder=" ...")


# --- The table ---


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
    from_numpy: Callable[[HostArray, Namespace, Device], Array] = _asarray
    lacks: Callable[[Device], Set[str]] = lambda _device: frozenset()  # the dtypes that the device does not have
    float64_hint: str = ""  # how to get float64 where it is lacking
    runner: str = "eager"  # who executes steps
    replaced: Replaced = ()  # functions of the namespace
    here: Callable[[Device], AbstractContextManager[Any]] = lambda _device: nullcontext()  # see Place.here
    cached_bytes: int = 2**23  # see Place.block_bytes

    @property
    def xp(self) -> Namespace:
        """The namespace; the first look imports the library."""
        library = import_module(self.module)
        return _namespace(library, self.replaced) if self.replaced else library


_namespace = functools.cache(WithReplaced)


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
            runner="numpy",
            cached_bytes=2**20,
        ),
        Backend(
            name="cupy",
            label="CuPy",
            noun="CuPy array",
            module="array_api_compat.cupy",
            package="cupy",
            install="pip install 'cupy-cuda13x[ctk]>=14', or 'cupy-cuda12x[ctk]>=14' for a driver older than 580",
            device_kinds=("cuda",),
            owns=array_api_compat.is_cupy_array,
            find_device=_cupy_device,
            devices=_cupy_devices,
            device_name=lambda device: f"cuda:{device.id}",
            to_numpy=lambda array: array.get(order="C"),
            runner="cupy",
            replaced=(("matmul", cupy_matmul), ("concat", cupy_concat), ("sign", cupy_sign)),
            here=lambda device: device,  # CuPy makes results on the current device, wherever the operands are
        ),
        Backend(
            name="torch",
            label="PyTorch",
            noun="PyTorch tensor",
            module="array_api_compat.torch",
            package="torch",
            install="pip install 'torch>=2.6'",
            device_kinds=("cpu", "cuda", "mps", "xpu"),
            owns=array_api_compat.is_torch_array,
            find_device=_torch_device,
            devices=_torch_devices,
            device_name=lambda device: {"mps:0": "mps"}.get(str(device), str(device)),
            to_numpy=_torch_to_numpy,
            runner="torch",
            here=_torch_here,  # a graph is captured on a stream of the current device
            from_numpy=_torch_from_numpy,
            lacks=lambda device: {"float64", "complex128"} if device.type == "mps" else set(),
        ),
        Backend(
            name="jax",
            label="JAX",
            noun="JAX array",
            module="jax.numpy",
            package="jax",
            install="pip install 'jax>=0.6'",
            device_kinds=("cpu", "cuda", "gpu", "rocm", "tpu"),
            owns=array_api_compat.is_jax_array,
            find_device=_jax_device,
            devices=_jax_devices,
            device_name=_jax_device_name,
            to_numpy=lambda array: np.array(array, order="C"),  # np.asarray would be a read-only view of JAX's buffer
            runner="jax",
            replaced=(("matmul", jax_matmul),),
            from_numpy=_jax_from_numpy,
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
