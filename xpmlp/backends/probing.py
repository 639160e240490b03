"""Does it work here? Each array library is tried when somebody first asks, and what was found is kept.

Never at import: a CUDA context made there breaks forked children, and a sleeping GPU takes ten seconds to answer.
"""

from __future__ import annotations

import difflib
import functools
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from xpmlp.backends.table import BACKENDS, Backend, BackendUnavailableError, State, reason


@dataclass(frozen=True)
class Probe:
    """What was found when a backend was tried on this machine."""

    state: State
    version: str | None  # of the library; None where it cannot be imported
    devices: tuple[str, ...]  # names that `device=` accepts here, the default one first
    message: str
    hint: str  # what to do about it; "" when ok


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
    row = backend_named(name)
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
            message = f"{row.label} is installed but cannot be imported: {reason(error)}"
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
            message = f"{label} sees {where}, but cannot compute on it: {reason(error)}"
            if isinstance(error, ImportError | OSError) or type(error).__name__ in faces:
                hint = f"install it with the libraries it needs: {row.install}"
                return Probe(State.LIBRARIES_MISSING, version, devices, message, hint)
            hint = "see that the device has free memory, and that its driver fits the library"
            return Probe(State.DRIVER_ERROR, version, devices, message, hint)
    return Probe(State.OK, version, devices, f"{label} works on {where}", "")


def backend_names() -> str:
    """Return the names of all backends, sorted, for a sentence."""
    return ", ".join(sorted(BACKENDS))


def backend_named(name: str) -> Backend:
    """Return a row of BACKENDS, or say which there are."""
    if not isinstance(name, str):
        raise TypeError(f"a backend is named by a string, one of {backend_names()}; got {type(name).__name__}.")
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}{_did_you_mean(name, BACKENDS)} Choose one of {backend_names()}.")
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
