"""What the estimators on Dask have in common: all of them, classifiers, regressors."""

import os
from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator

from xpmlp._typing import Array
from xpmlp.dask import answers, fitting
from xpmlp.dask.partitions import is_collection


class OnDask(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator whose `fit` works on a cluster; a mixin of one that does not."""

    _local: ClassVar[type[Any]]  # the estimator without Dask

    @staticmethod
    @abstractmethod
    def _batches(local: Any) -> fitting.Batches:
        """How the estimator without Dask makes batches of shards; ValueError for parameters that cannot be."""

    @property
    @abstractmethod
    def _n_outputs(self) -> int:
        """The outputs of the network."""

    @property
    @abstractmethod
    def _number_dtype(self) -> Any:
        """The dtype of numbers that are predicted."""

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Self:
        """Train on the cluster.

        Parameters
        ----------
        X : dask array of shape (n, n_features), or dask dataframe
        y : dask array or column of shape (n,) or (n, n_outputs)
            With the partitions of X; a NumPy array will do where it is known how many rows each of these has.
        sample_weight : dask array or column of shape (n,), optional
        X_val, y_val, sample_weight_val : array-like or of Dask, optional
            A validation set; what is not Dask's goes to every worker. A part of X that is held out in its place is a
            part of every shard.
        checkpoint : path, optional
            A folder that all workers see, as of `MLPClassifier.fit`. Without it the client keeps the state.
        checkpoint_every : int
            Epochs between two checkpoints.
        resume, overwrite : bool
            As of `MLPClassifier.fit`.

        Returns
        -------
        self

        Raises
        ------
        ImportError
            If Dask, or on several workers PyTorch, is not installed.
        ValueError, TypeError
            For parameters and data that cannot be.
        WorkerLostError
            If more workers are lost than `restarts` allows for.
        """
        asked = {
            "checkpoint": checkpoint,
            "checkpoint_every": checkpoint_every,
            "resume": resume,
            "overwrite": overwrite,
        }
        fitting.fit(self, X, y, sample_weight, (X_val, y_val, sample_weight_val), asked)
        return self

    def to_local(self) -> Any:
        """The same estimator without Dask, fitted where this one is; it needs no client."""
        return fitting.local_of(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `to_local()` gives to one safetensors file, which `xpmlp.load` reads."""
        self.to_local().save(path)

    def __getstate__(self) -> dict[str, Any]:
        """A client stays where it is."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"client": None}

    def __sklearn_clone__(self) -> Self:
        """An unfitted copy, with the same client."""
        return type(self)(**fitting.cloned_parameters(self))


class ClassifierOnDask(OnDask):
    """A classifier whose answers to Dask's collections are such."""

    def predict(self, X: Any) -> Array:
        """As without Dask; of a Dask collection a Dask array."""
        if not is_collection(X):
            return super().predict(X)
        if self._known_targets().kind == "multilabel":
            return answers.lazily(X, self.to_local().predict, (None, self._n_outputs), np.dtype(int))
        return answers.lazily(X, self.to_local().predict, (None,), self.classes_.dtype)

    def predict_proba(self, X: Any) -> Array:
        """As without Dask; of a Dask collection a Dask array."""
        return self._shares(X, "predict_proba")

    def predict_log_proba(self, X: Any) -> Array:
        """As without Dask; of a Dask collection a Dask array."""
        return self._shares(X, "predict_log_proba")

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of samples whose prediction is right; computed where the partitions are."""
        if not is_collection(X):
            return float(super().score(X, y, sample_weight))
        return answers.share_right(self.to_local(), X, y, sample_weight)

    def _shares(self, X: Any, method: str, *lead: int) -> Array:
        if not is_collection(X):
            return getattr(super(), method)(X)
        shape = (*lead, None, max(self._n_outputs, 2))
        return answers.lazily(X, getattr(self.to_local(), method), shape, np.dtype(self.dtype_))


class RegressorOnDask(OnDask):
    """A regressor whose answers to Dask's collections are such."""

    def predict(self, X: Any) -> Array:
        """As without Dask; of a Dask collection a Dask array."""
        if not is_collection(X):
            return super().predict(X)
        shape = (None, self._n_outputs) if self._n_outputs > 1 else (None,)
        return answers.lazily(X, self.to_local().predict, shape, self._number_dtype)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2, computed where the partitions are; of quantiles D^2, for which y comes to the client."""
        if not is_collection(X):
            return float(super().score(X, y, sample_weight))
        targets, model = self._known_targets(), self.to_local()
        if not targets.quantiles:
            return answers.explained(model, X, y, sample_weight)
        predicted, y, *weights = answers.brought(model, X, y, sample_weight)
        return float(targets.score(y, predicted, weights[0] if weights else None))
