"""A table and its targets as the network of a fitted estimator takes them, for those who look into it."""

from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.estimators.tabular.answers import prepared_inputs
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.targets import numbered
from xpmlp.estimators.validation import our_errors
from xpmlp.tabular.columns import table_of


def samples_for(
    estimator: TabularAttributes, X: Any, y: Any, sample_weight: Any
) -> tuple[Array, Array | None, Array | None]:
    """x, targets and weights where the network lives; X, y and weights as `fit` takes them."""
    net = estimator.network_

    def there(array: Any) -> Array:
        return net.place.asarray(np.asarray(array, dtype=np.float64), net.dtype)

    with our_errors():
        table = table_of(X)
        x = there(prepared_inputs(estimator, table))
        if y is None:
            return x, None, None
        samples = estimator._known_targets().encode(y, sample_weight, numbered(table.n_rows))
    return x, there(samples.targets), None if samples.w is None else there(samples.w)
