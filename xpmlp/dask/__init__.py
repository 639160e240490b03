"""Estimators that train on a Dask cluster: `DaskMLPClassifier(client=client).fit(dX, dy)`.

Dask holds the data and starts a process on each worker; the processes sum their gradients by gloo, step by step, so
that what they learn is what one process learns. Needs `pip install dask distributed torch`.
"""

from xpmlp.dask.classifier import DaskMLPClassifier
from xpmlp.dask.launching import WorkerLostError
from xpmlp.dask.regressor import DaskMLPRegressor
from xpmlp.dask.tabular_classifier import DaskTabularClassifier
from xpmlp.dask.tabular_regressor import DaskTabularRegressor

__all__ = [
    "DaskMLPClassifier",
    "DaskMLPRegressor",
    "DaskTabularClassifier",
    "DaskTabularRegressor",
    "WorkerLostError",
]
