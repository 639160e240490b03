"""What both estimators of tables do, method by method."""

import os
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import HostArray
from xpmlp.estimators.copying import demand_version, versioned
from xpmlp.estimators.tabular import serialization
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.columns import table_of

ROWS = 4096  # of a table that are prepared and looked at together


class TabularEstimator(TabularAttributes):
    """A network for tables with scikit-learn's contract."""

    @property
    def backend_(self) -> str:
        """The backend that was really used."""
        check_is_fitted(self)
        return self.network_.place.backend.name

    @property
    def device_(self) -> str:
        """The device that was really used."""
        check_is_fitted(self)
        return self.network_.place.device_name

    @property
    def dtype_(self) -> str:
        """The dtype of the weights and of all arithmetic."""
        check_is_fitted(self)
        return self.network_.dtype

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        return tags

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this fitted estimator to one safetensors file, which `xpmlp.load` reads on any backend.

        Weights as arrays; preparation, classes and parameters as JSON: no code. Killed, out of space or forbidden, it
        leaves the file that was there.

        Raises
        ------
        NotFittedError
            If it has not been fitted.
        ValueError
            If a parameter is a function of your own, which a file cannot hold, or a weight is not finite.
        OSError
            If the file cannot be written.
        """
        serialization.save(self, path)

    def __getstate__(self) -> dict[str, Any]:
        """Plain words and NumPy arrays, so that a model of a GPU loads where there is none."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "preparation_" in state:
            state["preparation_"] = self.preparation_.to_dict()
        return versioned(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A pickle of another version says so."""
        state = demand_version(state, type(self).__name__)
        if "preparation_" in state:
            state["preparation_"] = TablePreparation.from_dict(state["preparation_"])
        super().__setstate__(state)

    def _outputs(self, X: Any, *, of_each: bool = False) -> HostArray:
        """The mean of the members' outputs, shape (n, n_outputs), or those of each, (k, n, n_outputs); on the host."""
        check_is_fitted(self)
        net, table = self.network_, table_of(X)
        inputs = self.preparation_.transform(table)
        found = []
        for start in range(0, len(inputs), ROWS):
            block = net.place.asarray(inputs[start : start + ROWS], net.dtype)
            yhat = net.forward(block) if of_each else net.predict(block)
            found.append(np.asarray(net.place.backend.to_numpy(yhat)))
        return np.concatenate(found, axis=-2)
