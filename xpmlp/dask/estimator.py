"""What both estimators on Dask have in common."""

import os
from typing import Any, ClassVar, Self

from xpmlp.dask import fitting
from xpmlp.estimators.estimator import Estimator


class OnDask(Estimator):
    """An estimator whose `fit` works on a cluster."""

    _local: ClassVar[type[Estimator]]  # the estimator without Dask

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
        return super().__getstate__() | {"client": None}

    def __sklearn_clone__(self) -> Self:
        """An unfitted copy, with the same client."""
        return type(self)(**fitting.cloned_parameters(self))
