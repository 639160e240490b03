"""What both estimators do, method by method; each is a function of a module below."""

import inspect
import os
from typing import Any, Self

from sklearn.callback import CallbackSupportMixin

from xpmlp._typing import Array
from xpmlp.estimators import conversion, copying, prediction, serialization
from xpmlp.estimators.attributes import Attributes, dtype_of, place_of_weights


class Estimator(CallbackSupportMixin, Attributes):  # type: ignore[misc]
    """A multilayer perceptron with scikit-learn's contract: a classifier or a regressor."""

    @property
    def backend_(self) -> str:
        """The backend that was really used."""
        return place_of_weights(self).backend.name

    @property
    def device_(self) -> str:
        """The device that was really used."""
        return place_of_weights(self).device_name

    @property
    def dtype_(self) -> str:
        """The dtype of the weights and of all arithmetic."""
        return dtype_of(self)

    def hidden_activations(self, X: Any, layer: int = -1) -> Array:
        """What a hidden layer makes of X: learned features for another model.

        Parameters
        ----------
        X : array-like of shape (n, n_features_in_)
        layer : int
            Which hidden layer, counted as in a list: 0 is the first, -1 the last.

        Returns
        -------
        array of shape (n, units of that layer)
            In the namespace of X.

        Raises
        ------
        ValueError
            If there is no such hidden layer.

        Examples
        --------
        >>> import numpy as np
        >>> from xpmlp import MLPRegressor
        >>> X = np.linspace(0.0, 1.0, 40).reshape(20, 2)
        >>> reg = MLPRegressor(hidden_layer_sizes=(5, 3), solver="lbfgs", random_state=0).fit(X, X[:, 0])
        >>> reg.hidden_activations(X).shape
        (20, 3)
        """
        return prediction.hidden_activations(self, X, layer)

    def input_gradients(self, X: Any, y: Any = None, *, output: int | None = None) -> Array:
        """The derivative of the loss, or of the outputs, with respect to the inputs: which features matter, where.

        Parameters
        ----------
        X : array-like of shape (n, n_features_in_)
        y : array-like, optional
            Targets: then the derivative of each sample's own loss (not of the mean, and without the penalty).
        output : int, optional
            Without y: the output to differentiate, a column of `predict_proba`'s network outputs (for two classes
            the one output is the probability of `classes_[1]`). By default all of them.

        Returns
        -------
        array of shape (n, n_features_in_), or (n, n_outputs_, n_features_in_) for several outputs
            In the namespace of X. A large value: a small change of that feature changes the loss, or the output, much.

        Examples
        --------
        >>> import numpy as np
        >>> from xpmlp import MLPRegressor
        >>> X = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
        >>> reg = MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", random_state=0).fit(X, 3 * X[:, 0])
        >>> reg.input_gradients(X).shape
        (20, 2)
        """
        return prediction.input_gradients(self, X, y, output)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this fitted estimator to one safetensors file, which `xpmlp.load` reads on any backend.

        Weights, classes, parameters and what `fit` has noted, as arrays and JSON: no code. Killed, out of space or
        forbidden, it leaves the file that was there. What `set_callbacks` has set stays behind.

        Raises
        ------
        NotFittedError
            If it has not been fitted.
        ValueError
            If a parameter is a function of your own, which a file cannot hold, or a weight is not finite.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile, numpy as np, xpmlp
        >>> X = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
        >>> clf = xpmlp.MLPClassifier(4, solver="lbfgs", random_state=0).fit(X, X[:, 0] > 0)
        >>> path = os.path.join(tempfile.mkdtemp(), "clf.safetensors")
        >>> clf.save(path)
        >>> bool(np.all(xpmlp.load(path).predict(X) == clf.predict(X)))
        True
        """
        serialization.save(self, path)

    def to_onnx(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write what this fitted estimator predicts as an ONNX model, for onnxruntime and its kin; needs onnx.

        The input is "X", of any number of rows. The outputs have skl2onnx's names: "label" and "probabilities" of a
        classifier, "variable", with a column per output, of a regressor.

        Parameters
        ----------
        path : path
        dtype : {"float32", "float64"}
            Of inputs and arithmetic; "float32" is what runtimes are made for.

        Raises
        ------
        ImportError
            If onnx is not installed.
        ValueError
            If an activation is a function of your own, or labels are a mixture that ONNX has no type for.
        """
        conversion.to_onnx(self, path, dtype)

    def to_torch(self) -> Any:
        """The network as a `torch.nn.Sequential` with weights of its own, ready to be trained on.

        It gives the network's outputs: probabilities for a classifier (one column for two classes), numbers for a
        regressor.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        ValueError
            If an activation is a function of your own.
        """
        return conversion.to_torch(self)

    def to_sklearn(self) -> Any:
        """scikit-learn's own estimator, fitted, which predicts the same.

        Parameters of training that scikit-learn does not have are left behind, and so is the optimizer's state.

        Returns
        -------
        sklearn.neural_network.MLPClassifier or MLPRegressor

        Raises
        ------
        ValueError
            If scikit-learn cannot express the model: another activation, several of them, another loss's output.

        Examples
        --------
        >>> import numpy as np
        >>> from xpmlp import MLPClassifier
        >>> X = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
        >>> clf = MLPClassifier(hidden_layer_sizes=4, solver="lbfgs", random_state=0).fit(X, X[:, 0] > 0)
        >>> bool(np.all(clf.to_sklearn().predict(X) == clf.predict(X)))
        True
        """
        return conversion.to_sklearn(self)

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """An estimator of xpmlp's with the parameters and weights of scikit-learn's.

        Parameters
        ----------
        model : sklearn.neural_network.MLPClassifier or MLPRegressor
            Fitted, or not: then only its parameters are taken.

        Raises
        ------
        TypeError
            If it is neither.

        Examples
        --------
        >>> from sklearn.neural_network import MLPRegressor as Theirs
        >>> from xpmlp import MLPRegressor
        >>> MLPRegressor.from_sklearn(Theirs(alpha=0.1))
        MLPRegressor(alpha=0.1)
        """
        return conversion.from_sklearn(cls, model)

    def __getstate__(self) -> dict[str, Any]:
        """NumPy arrays only, so that a model of a GPU loads where there is none; after `fit`, no optimizer state."""
        return copying.pickled(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A pickle of another version says so."""
        parameters = inspect.signature(type(self)).parameters
        newer = {name: parameters[name].default for name in self._get_param_names()}  # than the pickle may be
        super().__setstate__(newer | copying.unpickled(state, type(self).__name__))

    def __copy__(self) -> Self:
        """A copy that goes on as this estimator would."""
        return copying.copied(self, None)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that goes on as this estimator would."""
        return copying.copied(self, memo)  # type: ignore[no-any-return]
