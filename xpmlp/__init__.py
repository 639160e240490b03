"""xpmlp: a multilayer perceptron with hand-written gradients, on NumPy, CuPy, PyTorch, JAX or array-api-strict."""

import importlib
from typing import TYPE_CHECKING, Any

from xpmlp.io.moved import install as find_moved_modules

if TYPE_CHECKING:
    from xpmlp.backends import (
        BackendFallbackWarning,
        BackendUnavailableError,
        PrecisionWarning,
        available_backends,
        get_backend,
    )
    from xpmlp.backends.config import config_context, get_config, set_config
    from xpmlp.backends.transfer import to_backend, to_device, to_numpy
    from xpmlp.estimators import MLPClassifier, MLPRegressor
    from xpmlp.estimators.tabular import TabularClassifier, TabularRegressor
    from xpmlp.inspection import check_gradients
    from xpmlp.inspection.curvature import curvature
    from xpmlp.inspection.diagnosis import diagnose
    from xpmlp.inspection.explanation import explain_step
    from xpmlp.inspection.health import Health
    from xpmlp.interop.loading import load, resume
    from xpmlp.interop.onnx_pipelines import register_onnx
    from xpmlp.io.storage import FileFormatError
    from xpmlp.mlp import MLP
    from xpmlp.network.initializers import normal
    from xpmlp.network.losses import loss
    from xpmlp.optim.optimizers import optimizer
    from xpmlp.optim.schedules import schedule
    from xpmlp.tabular import TablePreparation, TableWarning
    from xpmlp.training.loop import DivergenceError, DivergenceWarning

__version__ = "0.1.0"

find_moved_modules()

# Everything is imported when it is first asked for (PEP 562): the command line must hear Ctrl-C before NumPy loads.
_ROOMS = {
    "BackendFallbackWarning": "backends",
    "BackendUnavailableError": "backends",
    "DivergenceError": "training.loop",
    "DivergenceWarning": "training.loop",
    "FileFormatError": "io.storage",
    "Health": "inspection",
    "MLP": "mlp",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "PrecisionWarning": "backends",
    "TablePreparation": "tabular",
    "TableWarning": "tabular",
    "TabularClassifier": "estimators.tabular",
    "TabularRegressor": "estimators.tabular",
    "available_backends": "backends",
    "check_gradients": "inspection",
    "config_context": "backends.config",
    "curvature": "inspection",
    "diagnose": "inspection",
    "explain_step": "inspection",
    "get_backend": "backends",
    "get_config": "backends.config",
    "load": "interop.loading",
    "loss": "network.losses",
    "normal": "network.initializers",
    "optimizer": "optim.optimizers",
    "register_onnx": "interop.onnx_pipelines",
    "resume": "interop.loading",
    "schedule": "optim.schedules",
    "set_config": "backends.config",
    "to_backend": "backends.transfer",
    "to_device": "backends.transfer",
    "to_numpy": "backends.transfer",
}

# Rooms that users go to themselves: xpmlp.shards.from_arrays(X, y).
_MODULES = ("xpmlp.dask", "xpmlp.distributed", "xpmlp.shards")

__all__ = [
    "MLP",
    "BackendFallbackWarning",
    "BackendUnavailableError",
    "DivergenceError",
    "DivergenceWarning",
    "FileFormatError",
    "Health",
    "MLPClassifier",
    "MLPRegressor",
    "PrecisionWarning",
    "TablePreparation",
    "TableWarning",
    "TabularClassifier",
    "TabularRegressor",
    "available_backends",
    "check_gradients",
    "config_context",
    "curvature",
    "diagnose",
    "explain_step",
    "get_backend",
    "get_config",
    "load",
    "loss",
    "normal",
    "optimizer",
    "register_onnx",
    "resume",
    "schedule",
    "set_config",
    "to_backend",
    "to_device",
    "to_numpy",
]


def __getattr__(name: str) -> Any:
    if f"xpmlp.{name}" in _MODULES:
        return importlib.import_module(f"xpmlp.{name}")
    if name in _ROOMS:
        return getattr(importlib.import_module(f"xpmlp.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'xpmlp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
