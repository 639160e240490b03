"""The array libraries: what they are called (table), whether they work here (probing), where arrays live (places)."""

from xpmlp.backends.places import (
    BackendFallbackWarning,
    Place,
    PrecisionWarning,
    array_namespace,
    at_home,
    available_backends,
    backend_of,
    device_of,
    get_backend,
    kept_warnings,
    pass_over,
    place_of,
    select,
    warn,
)
from xpmlp.backends.probing import Probe, forget_probes, probe
from xpmlp.backends.table import BACKENDS, DTYPES, Backend, BackendUnavailableError, HostArray, State

__all__ = [
    "BACKENDS",
    "DTYPES",
    "Backend",
    "BackendFallbackWarning",
    "BackendUnavailableError",
    "HostArray",
    "Place",
    "PrecisionWarning",
    "Probe",
    "State",
    "array_namespace",
    "at_home",
    "available_backends",
    "backend_of",
    "device_of",
    "forget_probes",
    "get_backend",
    "kept_warnings",
    "pass_over",
    "place_of",
    "probe",
    "select",
    "warn",
]
