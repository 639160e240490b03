"""What both estimators of tables do, method by method."""

import os
from typing import Any

from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import HostArray
from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators.copying import demand_version, versioned
from xpmlp.estimators.tabular import answers, serialization
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.tabular import TablePreparation


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

    def to_onnx(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write what this predicts of a table as an ONNX model, the preparation included; needs onnx.

        Each column is an input of its own, (batch, 1), by its name: numbers as float64 with NaN for a gap, categories
        as text, and the empty text where there is a gap. Numbers written as texts ("1,200 EUR") are given as the
        numbers that they are. A table of numbers without names is one input "X", (batch, n_features). Outputs are
        "label" and "probabilities" of a classifier, "variable" (batch, n_outputs) of a regressor: the mean of the
        members, quantiles sorted, numbers kept within those of the training.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Of the network's arithmetic, and of what comes out.

        Raises
        ------
        ImportError
            If onnx is not installed.
        NotFittedError
            If it has not been fitted.
        ValueError
            If ONNX has no words for a column (dates), an activation or the labels. `network_.to_onnx` then exports the
            network alone, which takes what `preparation_.transform` makes of a table.
        """
        from xpmlp.interop.onnx_tables import table_to_onnx

        check_is_fitted(self)
        net, tail = self.network_, self._known_targets().onnx_tail
        table_to_onnx(path, self.preparation_, net.network, net.layout.unpack(to_numpy(net.parameters)), dtype, **tail)

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

    def feature_importances(self, X: Any, y: Any, sample_weight: Any = None) -> HostArray:
        """How much the loss of these rows depends on each column, by its derivative: one pass there and back.

        The mean over the rows of |dL/dz|, z being what the column has become for the network (a number on the scale of
        its quartiles, a level as 0 or 1), summed where it has become several. It says what the model looks at, nearby;
        what it would lose without a column, `sklearn.inspection.permutation_importance` measures, on frames too.

        Parameters
        ----------
        X, y, sample_weight : as in `fit`

        Returns
        -------
        ndarray of shape (n_features_in_,)
            0 for columns that are left out.
        """
        return answers.feature_importances(self, X, y, sample_weight)

    def _outputs(self, X: Any, *, of_each: bool = False) -> HostArray:
        return answers.outputs(self, X, of_each=of_each)
