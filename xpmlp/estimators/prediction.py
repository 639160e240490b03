"""What a fitted estimator says of new samples: outputs, hidden layers, derivatives with respect to the inputs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn import get_config

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, at_home
from xpmlp.estimators import building
from xpmlp.estimators.attributes import (
    Attributes,
    demand_weights_that_fit,
    dtype_of,
    network_of,
    place_of_weights,
)
from xpmlp.estimators.validation import (
    NUMPY,
    Inputs,
    InvalidInputError,
    bring,
    caller_place,
    check_inputs,
    host,
    our_errors,
)
from xpmlp.network import Network, Parameters, backward, forward
from xpmlp.network.losses import Loss
from xpmlp.runners import Data
from xpmlp.runners.passes import outputs_of_few
from xpmlp.training import outputs, rows_at_once
from xpmlp.training.evaluation import MANY

at_weights = at_home("predicting", "Predict for fewer samples at once.", of=place_of_weights)
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def predict(estimator: Attributes, X: Any) -> Array:
    """The predictions for X, where the caller is."""
    return outputs_of(estimator, X, "predict", lambda *found: estimator._known_targets().decode(*found))


def score(estimator: Attributes, X: Any, y: Any, sample_weight: Any) -> float:
    """How good the predictions for X are."""
    y, predicted = host(y), host(predict(estimator, X))
    return estimator._known_targets().score(y, predicted, host(sample_weight))


@at_weights
def hidden_activations(estimator: Attributes, X: Any, layer: int) -> Array:
    """What a hidden layer makes of X."""
    place, network, p, x, caller = _prepare(estimator, X, "hidden_activations")
    n_hidden = network.layout.n_layers - 1
    with our_errors():
        k = checks.integer(layer, "layer", least=-n_hidden)
        if not k < n_hidden:
            raise InvalidInputError(f"layer must count one of {n_hidden} hidden layers, 0 the first; got {layer}.")
    k = k % n_hidden + 1
    return bring(outputs(network, p, _blocks(x, network), k), place, caller)


@at_weights
def input_gradients(estimator: Attributes, X: Any, y: Any, output: int | None) -> Array:
    """The derivative of the loss, or of the outputs, with respect to the inputs."""
    place, network, p, x, caller = _prepare(estimator, X, "input_gradients")
    if y is not None:
        with our_errors():
            known = estimator._known_targets().encode(y, None, x)
            targets = place.asarray(known.targets, dtype_of(estimator))
        return bring(_slopes(place, network, p, x, targets), place, caller)
    n = network.layout.sizes[-1]
    if output is not None:
        with our_errors():
            chosen = checks.integer(output, "output", least=0)
            if chosen >= n:
                raise InvalidInputError(f"output must be one of {n} outputs, 0 the first; got {output}.")
    which = range(n) if output is None else [chosen]
    slopes = [_slopes(place, replace(network, loss=_output_itself(j, place)), p, x, None) for j in which]
    result = slopes[0] if len(slopes) == 1 else place.xp.stack(slopes, axis=1)
    return bring(result, place, caller)


def outputs_of(estimator: Attributes, X: Any, method: str, say: Callable[[Array, Place, Place], Array]) -> Array:
    """What `say` makes of the network's outputs for X, where they live and where the caller lives.

    `method` is who asks.
    """
    state = vars(estimator)
    if (
        # The short way of what is asked most: a plain array, for weights that are NumPy's.
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype in FLOATS
        and "coefs_" in state
        and "feature_names_in_" not in state
        and X.shape[1] == state.get("n_features_in_")
        and X.shape[0] > 0
        and estimator._settled
    ):
        coefs, intercepts, network = estimator.coefs_, estimator.intercepts_, state.get("_network")
        dtype: Any = getattr(coefs[0], "dtype", None)
        plain = all(type(c) is np.ndarray and c.dtype == dtype for c in (*coefs, *intercepts))
        if plain and network is not None and _fit(coefs, intercepts, network) and _is_finite(X):
            p = Parameters([None, *coefs], [None, *intercepts])
            if X.dtype != dtype:
                with our_errors():
                    checks.demand_no_loss(X, "X", np, dtype.name)
            if X.shape[0] <= MANY:
                return say(outputs_of_few(network, p, X.astype(dtype, copy=False)), NUMPY, NUMPY)
            return say(outputs(network, p, _blocks(Inputs(X, NUMPY, dtype.name), network)), NUMPY, NUMPY)
    return _outputs_there(estimator, X, method, say)


@at_weights
def _outputs_there(estimator: Attributes, X: Any, method: str, say: Callable[[Array, Place, Place], Array]) -> Array:
    place, network, p, inputs, caller = _prepare(estimator, X, method)
    return say(outputs(network, p, _blocks(inputs, network)), place, caller)


def viewer(estimator: Attributes, fitted: Mapping[str, Any], place: Place) -> Any:
    """A fitted copy that predicts for NumPy callers, for scorers: they know no other library."""
    copy: Any = object.__new__(type(estimator))
    vars(copy).update({name: value for name, value in vars(estimator).items() if name != "feature_names_in_"})
    vars(copy).update(fitted, _asked=(place.backend.name, place.device_name), _settled=True)
    return copy


# --- For those who look into a model ---


def opened(estimator: Attributes) -> tuple[Network, Parameters, Place]:
    """The network of a fitted estimator, its parameters, and where they live."""
    place = place_of_weights(estimator)
    W, b = ([None, *map(place.xp.asarray, values)] for values in (estimator.coefs_, estimator.intercepts_))
    return network_of(estimator), Parameters(W, b), place


def samples_for(estimator: Attributes, X: Any, y: Any, sample_weight: Any) -> tuple[Array, Array | None, Array | None]:
    """x, targets and weights as the network of a fitted estimator takes them; X, y as its `fit` does."""
    with our_errors():
        inputs = check_inputs(estimator, X, place=place_of_weights(estimator), dtype=dtype_of(estimator), reset=False)
        targets, w = np.zeros((inputs.n, 1)), None
        if y is not None:
            samples = estimator._known_targets().encode(y, sample_weight, inputs, "sample_weight_val")
            targets, w = samples.targets, samples.w
        ((x, targets, w),) = inputs.data(targets, w, inputs.n).batches(None)
    return x, None if y is None else targets, w


# --- Behind the door ---


def _fit(coefs: Sequence[HostArray], intercepts: Sequence[HostArray], network: Network) -> bool:
    """Whether weights, which anybody may assign, are those of the network."""
    sizes = network.layout.sizes
    shapes = [c.shape for c in coefs] == list(pairwise(sizes))
    return shapes and [b.shape for b in intercepts] == [(n,) for n in sizes[1:]]


def _is_finite(X: HostArray) -> bool:
    """Whether X is known to be finite: no array as large as X is made to find out."""
    if X.shape[0] <= MANY:
        return bool(np.isfinite(X).all())
    with np.errstate(all="ignore"):
        return math.isfinite(np.add.reduce(X, axis=None))


def _prepare(estimator: Attributes, X: Any, method: str) -> tuple[Place, Network, Parameters, Inputs, Place]:
    with our_errors():
        demand_weights_that_fit(estimator)
        place, caller = place_of_weights(estimator), caller_place(X)
        if estimator._asked is None and place is NUMPY and _is_read_as_numpys(caller):
            caller = NUMPY
        elif estimator._asked is None:
            _check_same_namespace(type(estimator).__name__, place, caller, method)
        dtype = dtype_of(estimator)
        inputs = check_inputs(estimator, X, place=place, dtype=dtype, reset=False)
        W = [None, *(building.on_place(c, place, dtype) for c in estimator.coefs_)]
        b = [None, *(building.on_place(c, place, dtype) for c in estimator.intercepts_)]
        return place, network_of(estimator, W), Parameters(W, b), inputs, caller


def _is_read_as_numpys(caller: Place) -> bool:
    """Whether a model of NumPy's takes such an array: as scikit-learn does, unless it dispatches."""
    return caller.on_cpu and not get_config()["array_api_dispatch"]


def _check_same_namespace(owner: str, place: Place, caller: Place, method: str) -> None:
    if place.backend is caller.backend and place.device == caller.device:
        return
    cure = f'move X with xpmlp.to_backend(X, "{place.backend.name}", device="{place.device_name}")'
    raise InvalidInputError(
        f"Inputs passed to {owner}.{method}() must use the same namespace and the same device as "
        f"those passed to fit(): X is {caller.describe()}, the weights are {place.describe(plural=True)}. Either "
        f"{cure}, or fit with an explicit backend=, which predicts for callers of any namespace."
    )


def _slopes(place: Place, network: Network, p: Parameters, x: Inputs, targets: Array | None) -> Array:
    parts, at = [], 0
    for part in _blocks(x, network).x_blocks():
        trace = forward(network, p, part)
        n = int(part.shape[0])
        y = trace.a[-1] if targets is None else targets[at : at + n, :]
        # L is the mean over the block; each sample's own loss is n times its share.
        parts.append(backward(network, p, trace, y, inputs=True).da[0] * float(n))
        at += n
    return parts[0] if len(parts) == 1 else place.xp.concat(parts, axis=0)


def _blocks(inputs: Inputs, network: Network) -> Data:
    return inputs.blocks(rows_at_once(network, inputs.place))


def _output_itself(j: int, place: Place) -> Loss:
    """A "loss" that is output j, so that the backward pass gives the derivative of that output."""

    def value(_: Array, yhat: Array) -> Array:
        return yhat[..., j]

    def derivative(_: Array, yhat: Array) -> Array:
        xp = place.xp
        columns = xp.reshape(xp.arange(yhat.shape[-1], device=yhat.device), (1, -1))
        return xp.zeros_like(yhat) + xp.astype(columns == j, yhat.dtype)

    return Loss(f"output {j}", value, derivative)
