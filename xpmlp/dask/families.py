"""What sets the estimators of arrays and those of tables apart on Dask."""

from functools import partial
from typing import Any

import numpy as np

from xpmlp.dask.estimator import OnDask
from xpmlp.dask.fitting import Batches
from xpmlp.estimators.parameters import check_parameters
from xpmlp.estimators.settings import settings_of
from xpmlp.estimators.sharded import batch_size_of, held_out_of
from xpmlp.estimators.tabular.parameters import settings_of_table
from xpmlp.shards.lanes import HeldOut


class OfArrays(OnDask):
    """On Dask, an estimator that stands on `MLPClassifier` or `MLPRegressor`."""

    @staticmethod
    def _batches(local: Any) -> Batches:
        check_parameters(local)
        settings = settings_of(local)
        return Batches(held_out_of(settings, given=False), partial(batch_size_of, settings))

    @property
    def _n_outputs(self) -> int:
        return int(self.n_outputs_)

    @property
    def _number_dtype(self) -> Any:
        return np.dtype(self.dtype_)


class OfTables(OnDask):
    """On Dask, an estimator that stands on `TabularClassifier` or `TabularRegressor`."""

    @staticmethod
    def _batches(local: Any) -> Batches:
        settings = settings_of_table(local)
        held_out = HeldOut(settings.validation_fraction, chosen=False)
        return Batches(held_out, lambda rows, held: settings.batch_size)  # noqa: ARG005 - of whatever rows

    @property
    def _n_outputs(self) -> int:
        return int(self.network_.network.layout.sizes[-1])

    @property
    def _number_dtype(self) -> Any:
        return np.dtype(float)

    @property
    def _n_members(self) -> int:
        return self.network_.network.members or 1
