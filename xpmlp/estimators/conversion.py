"""Estimators in other hands: scikit-learn's own, ONNX models, PyTorch modules."""

import os
import warnings
from typing import Any, TypeVar

import numpy as np
from sklearn import neural_network
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators.attributes import Attributes, dtype_of, network_of
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.network import Network, Parameters

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

Kind = TypeVar("Kind", bound=Attributes)


def to_sklearn(estimator: Attributes) -> Any:
    """scikit-learn's own estimator, fitted, which predicts the same."""
    check_is_fitted(estimator)
    network = network_of(estimator)
    names = {row.name for row in network.activations[:-1]}
    if len(names) > 1 or not names <= set(ACTIVATIONS):
        raise InvalidInputError(
            f"scikit-learn's MLP has one activation for all hidden layers, of {', '.join(ACTIVATIONS.values())}; "
            f"this model has {', '.join(sorted(names))}."
        )
    if estimator.out_activation_ not in ("identity", "exp", "softmax", "logistic"):
        raise InvalidInputError(f"scikit-learn's MLP has no output activation {estimator.out_activation_!r}.")
    name, extra, y = estimator._known_targets().twin(network.loss, network.layout.sizes[-1])
    kind: Any = getattr(neural_network, name)
    own = estimator.get_params()
    parameters = {name: value for name, value in own.items() if name in kind().get_params()}
    parameters |= {"activation": ACTIVATIONS[names.pop()] if names else "identity", **extra}
    parameters["hidden_layer_sizes"] = network.layout.sizes[1:-1]
    if own["solver"] not in SOLVERS:
        parameters["solver"] = "adam"
    if own["learning_rate"] not in SCHEDULES:
        parameters["learning_rate"] = "constant"
    # A fit on one row of zeros per class makes everything that scikit-learn's estimator remembers of itself.
    twin = kind(**{**parameters, "solver": "lbfgs", "max_iter": 1, "early_stopping": False, "warm_start": False})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        twin.fit(np.zeros((len(y), network.layout.sizes[0]), dtype=dtype_of(estimator)), y)
    twin.set_params(**parameters)
    twin.coefs_ = [np.array(to_numpy(values)) for values in estimator.coefs_]
    twin.intercepts_ = [np.array(to_numpy(values)) for values in estimator.intercepts_]
    for name in SHARED:
        if hasattr(estimator, name):
            setattr(twin, name, getattr(estimator, name))
    return twin


def from_sklearn(cls: type[Kind], model: Any) -> Kind:
    """An estimator of xpmlp's with the parameters and weights of scikit-learn's."""
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
        estimator.coefs_ = [np.array(values) for values in model.coefs_]
        estimator.intercepts_ = [np.array(values) for values in model.intercepts_]
        estimator._network = network_of(estimator)
    return estimator


def to_onnx(estimator: Attributes, path: str | os.PathLike[str], dtype: str) -> None:
    """Write what a fitted estimator predicts as an ONNX model."""
    from xpmlp.interop.onnx import estimator_to_onnx

    network, p, tail = parts_for_onnx(estimator)
    estimator_to_onnx(path, network, p, dtype, **tail)


def parts_for_onnx(estimator: Attributes) -> tuple[Network, Parameters, dict[str, Any]]:
    """The network of a fitted estimator, its weights on the host, and the `labels` or `quantiles` of its graph."""
    check_is_fitted(estimator)
    return network_of(estimator), _on_host(estimator), estimator._known_targets().onnx_tail


def to_torch(estimator: Attributes) -> Any:
    """The network of a fitted estimator as a `torch.nn.Sequential`."""
    from xpmlp.interop.torch import sequential

    check_is_fitted(estimator)
    return sequential(network_of(estimator), _on_host(estimator))


def _on_host(estimator: Attributes) -> Parameters:
    W, b = ([None, *map(to_numpy, values)] for values in (estimator.coefs_, estimator.intercepts_))
    return Parameters(W, b)
