"""What early stopping watches by default: the estimators' own scores, of data that are known to be clean.

The scores are those of scikit-learn's `accuracy_score` and `r2_score`, to the last digit. Those check labels and arrays
anew with every call, which costs more than the epoch of a small network; here what y alone decides is decided once.
"""

from collections.abc import Callable

import numpy as np
from sklearn.metrics import r2_score

from xpmlp.backends import HostArray

Score = Callable[[HostArray], float]  # from outputs of shape (n, n_outputs) on the host, all of them finite


def accuracy_of(targets: HostArray, w: HostArray | None, *, exclusive: bool, n_classes: int) -> Score:
    """The share of samples whose prediction is right, of several labels all of them.

    Parameters
    ----------
    targets : array of bool, shape (n, n_outputs)
        As `Classes.columns` writes them.
    w : array of shape (n,) or None
    exclusive : bool
        A sample has one label, and the largest output decides; else each output is on its own.
    n_classes : int
    """
    if exclusive and n_classes > 2:
        codes = np.argmax(targets, axis=1)
        return lambda yhat: float(np.average(np.argmax(yhat, axis=1) == codes, weights=w))
    if exclusive and n_classes == 1:  # there is nothing else to predict
        return lambda yhat: float(np.average(np.ones(len(yhat)), weights=w))
    return lambda yhat: float(np.average(np.all((yhat > 0.5) == targets, axis=1), weights=w))


def r2_of(y: HostArray, w: HostArray | None, dtype: str) -> Score:
    """R^2, averaged over the outputs, of `y` with shape (n,) or (n, n_outputs) and outputs of this dtype."""
    if len(y) < 2:
        return lambda yhat: float(r2_score(y, yhat, sample_weight=w))  # NaN, and a warning in scikit-learn's words
    wide = np.result_type(dtype, *(array.dtype for array in (y, w) if array is not None and array.dtype.kind == "f"))
    y, w = y.reshape(len(y), -1).astype(wide), None if w is None else w.astype(wide)
    weight = 1.0 if w is None else w[:, None]
    spread = np.sum(weight * (y - np.average(y, axis=0, weights=w)) ** 2, axis=0)

    def score(yhat: HostArray) -> float:
        off = np.sum(weight * (y - yhat.astype(wide, copy=False)) ** 2, axis=0)
        # Where y is constant there is nothing to explain: 1 if nothing is off, else 0.
        explained = (off == 0.0).astype(wide)
        usual = (off != 0.0) & (spread != 0.0)
        explained[usual] = 1 - off[usual] / spread[usual]
        return float(np.average(explained))

    return score
