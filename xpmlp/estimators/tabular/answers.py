"""What a fitted estimator of tables says of rows: outputs, and how the loss depends on each column."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp._typing import Array
from xpmlp.backends import HostArray, warn
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.targets import numbered
from xpmlp.estimators.targets import Samples
from xpmlp.estimators.validation import our_errors
from xpmlp.faults import telling_of_memory
from xpmlp.network import backward, forward
from xpmlp.tabular import TableWarning
from xpmlp.tabular.columns import Table, table_of

ROWS = 2048  # that are looked at together


def outputs(estimator: TabularAttributes, X: Any, *, of_each: bool = False) -> HostArray:
    """The mean of the members' outputs, shape (n, n_outputs), or those of each, (k, n, n_outputs); on the host."""
    check_is_fitted(estimator)
    net = estimator.network_
    with our_errors():
        inputs = prepared_inputs(estimator, table_of(X))
    found = []
    with net.place.here(), telling_of_memory(net.place, "predicting", "Predict for fewer rows at once."):
        for _, x in _blocks(estimator, inputs):
            yhat = forward(net.network, net.layout.unpack(net._p), x).a[-1] if of_each else net.predict(x)
            found.append(np.asarray(net.place.backend.to_numpy(yhat)))
    return np.concatenate(found, axis=-2)


def prepared_inputs(estimator: TabularAttributes, table: Table) -> HostArray:
    """What the network takes of a table, shape (n, n_inputs); the caller's line is told of odd cells."""
    inputs, notes = estimator.preparation_.transform_with_notes(table)
    for note, loud in notes:
        if loud:
            warn(note, TableWarning)
    return inputs


def feature_importances(estimator: TabularAttributes, X: Any, y: Any, sample_weight: Any) -> HostArray:
    """The mean over the rows of |dL/dz|, summed over the inputs that a column has become, shape (n_features_in_,)."""
    check_is_fitted(estimator)
    net, preparation = estimator.network_, estimator.preparation_
    with our_errors():
        table = table_of(X)
        inputs = prepared_inputs(estimator, table)
        samples: Samples = estimator._known_targets().encode(y, sample_weight, numbered(table.n_rows))
    w = np.ones(table.n_rows) if samples.w is None else samples.w
    total = np.zeros(inputs.shape[1])
    p = net.layout.unpack(net._p)
    with net.place.here(), telling_of_memory(net.place, "going backward", "Pass fewer rows."):
        for rows, x in _blocks(estimator, inputs):
            targets = net.place.asarray(np.asarray(samples.targets[rows], np.float64), net.dtype)
            trace = forward(net.network, p, x)
            dx = backward(net.network, p, trace, targets, inputs=True).da[0]
            slopes = np.abs(np.asarray(net.place.backend.to_numpy(dx), np.float64))
            # L is the mean over the block; each row's own loss is as many times its share.
            total += w[rows] @ slopes.reshape(-1, *slopes.shape[-2:]).sum(axis=0) * int(x.shape[0])
    found: HostArray = np.bincount(preparation.sources_, weights=total / w.sum(), minlength=preparation.n_features_in_)
    return found


def _blocks(estimator: TabularAttributes, inputs: HostArray) -> Iterator[tuple[slice, Array]]:
    net = estimator.network_
    for start in range(0, len(inputs), ROWS):
        rows = slice(start, min(start + ROWS, len(inputs)))
        yield rows, net.place.asarray(inputs[rows], net.dtype)
