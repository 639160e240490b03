"""Estimators in other hands: pickles, scikit-learn's own estimators, PyTorch modules."""

import warnings
from typing import Any

import numpy as np

from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators.serialization import Filing
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.network import Parameters

SOLVERS = ("lbfgs", "sgd", "adam")
SCHEDULES = ("constant", "invscaling", "adaptive")
ACTIVATIONS = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}

# Fitted attributes that scikit-learn's estimators have too, the weights apart.
SHARED = (
    "n_iter_",
    "t_",
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "feature_names_in_",
)


class Exchange(Filing):
    """The part of an estimator that goes elsewhere and comes back."""

    def __getstate__(self: Any) -> dict[str, Any]:
        """NumPy arrays only, so that a model of a GPU loads where there is none; after `fit`, no optimizer state."""
        state: dict[str, Any] = dict(super().__getstate__())  # type: ignore[call-overload]  # that of BaseEstimator
        for name in ("coefs_", "intercepts_"):
            if name in state:
                state[name] = [to_numpy(values) for values in state[name]]
        carried = state.get("_carried")
        if carried is not None:
            slim = state["_slim"]
            state["_carried"] = (
                None if slim else carried._replace(slots=tuple(to_numpy(slot) for slot in carried.slots))
            )
        if "coefs_" in state:
            state["_settled"] = state.get("_asked") is None
        return state

    def to_sklearn(self: Any) -> Any:
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
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        network = self._fitted_network([None, *self.coefs_])
        names = {row.name for row in network.activations[:-1]}
        if len(names) > 1 or not names <= set(ACTIVATIONS):
            raise InvalidInputError(
                f"scikit-learn's MLP has one activation for all hidden layers, of {', '.join(ACTIVATIONS.values())}; "
                f"this model has {', '.join(sorted(names))}."
            )
        if self.out_activation_ not in ("identity", "exp", "softmax", "logistic"):
            raise InvalidInputError(f"scikit-learn's MLP has no output activation {self.out_activation_!r}.")
        kind, extra, y = self._sklearn_twin(network)
        parameters = {name: value for name, value in self.get_params().items() if name in kind().get_params()}
        parameters |= {"activation": ACTIVATIONS[names.pop()] if names else "identity", **extra}
        parameters["hidden_layer_sizes"] = network.layout.sizes[1:-1]
        if self.solver not in SOLVERS:
            parameters["solver"] = "adam"
        if self.learning_rate not in SCHEDULES:
            parameters["learning_rate"] = "constant"
        # A fit on one row of zeros per class makes everything that scikit-learn's estimator remembers of itself.
        twin = kind(**{**parameters, "solver": "lbfgs", "max_iter": 1, "early_stopping": False, "warm_start": False})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin.fit(np.zeros((len(y), network.layout.sizes[0]), dtype=self.dtype_), y)
        twin.set_params(**parameters)
        twin.coefs_ = [np.array(to_numpy(values)) for values in self.coefs_]
        twin.intercepts_ = [np.array(to_numpy(values)) for values in self.intercepts_]
        for name in SHARED:
            if hasattr(self, name):
                setattr(twin, name, getattr(self, name))
        return twin

    @classmethod
    def from_sklearn(cls, model: Any) -> Any:
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
        name = cls.__name__
        if type(model).__name__ != name or not type(model).__module__.startswith("sklearn.neural_network"):
            raise InvalidInputError(
                f"{name}.from_sklearn needs a sklearn.neural_network.{name}; got {type(model).__name__}."
            )
        estimator = cls(**model.get_params())
        if hasattr(model, "coefs_"):
            for attribute in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "classes_", *SHARED):
                if hasattr(model, attribute):
                    setattr(estimator, attribute, getattr(model, attribute))
            estimator.coefs_ = [np.array(values) for values in model.coefs_]  # type: ignore[attr-defined]
            estimator.intercepts_ = [np.array(values) for values in model.intercepts_]  # type: ignore[attr-defined]
            estimator._network = estimator._fitted_network([None, *estimator.coefs_])  # type: ignore[attr-defined]
        return estimator

    def to_torch(self: Any) -> Any:
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
        from sklearn.utils.validation import check_is_fitted

        from xpmlp.interop.torch import sequential

        check_is_fitted(self)
        W = [None, *(to_numpy(values) for values in self.coefs_)]
        b = [None, *(to_numpy(values) for values in self.intercepts_)]
        return sequential(self._fitted_network(W), Parameters(W, b))
