"""What a fitted estimator says of new samples: outputs, hidden layers, derivatives with respect to the inputs."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, select
from xpmlp.estimators import building
from xpmlp.estimators.validation import NUMPY, Inputs, InvalidInputError, caller_place, check_inputs, our_errors
from xpmlp.network import Layers, Network, Parameters, backward, forward
from xpmlp.network.losses import Loss
from xpmlp.training import outputs, rows_at_once

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Predicting:
    """The part of an estimator that predicts.

    `coefs_` and `intercepts_` are the truth: they say what is computed, in which dtype and where.
    """

    _asked: tuple[str, str | None] | None = None  # the backend and device that `fit` was told to use; None: follow X
    _settled = True  # False after unpickling, until the weights are back where they were asked to be

    @property
    def backend_(self: Any) -> str:
        """The backend that was really used."""
        return self._place().backend.name  # type: ignore[no-any-return]

    @property
    def device_(self: Any) -> str:
        """The device that was really used."""
        return self._place().device_name  # type: ignore[no-any-return]

    @property
    def dtype_(self: Any) -> str:
        """The dtype of the weights and of all arithmetic."""
        return str(self.coefs_[0].dtype).rpartition(".")[2]

    def hidden_activations(self: Any, X: Any, layer: int = -1) -> Array:
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
        place, network, p, x, caller = self._prepare(X, "hidden_activations")
        n_hidden = network.layout.n_layers - 1
        with our_errors():
            k = checks.integer(layer, "layer", least=-n_hidden)
            if not k < n_hidden:
                raise InvalidInputError(f"layer must count one of {n_hidden} hidden layers, 0 the first; got {layer}.")
        k = k % n_hidden + 1
        return bring(outputs(network, p, _blocks(x, network), k), place, caller)

    def input_gradients(self: Any, X: Any, y: Any = None, *, output: int | None = None) -> Array:
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
        place, network, p, x, caller = self._prepare(X, "input_gradients")
        if y is not None:
            with our_errors():
                targets = place.asarray(self._encode_held_out(y, None, x)[1], self.dtype_)
            return bring(self._slopes(place, network, p, x, targets), place, caller)
        n = network.layout.sizes[-1]
        if output is not None:
            with our_errors():
                chosen = checks.integer(output, "output", least=0)
                if chosen >= n:
                    raise InvalidInputError(f"output must be one of {n} outputs, 0 the first; got {output}.")
        which = range(n) if output is None else [chosen]
        slopes = [self._slopes(place, replace(network, loss=_output_itself(j, place)), p, x, None) for j in which]
        result = slopes[0] if len(slopes) == 1 else place.xp.stack(slopes, axis=1)
        return bring(result, place, caller)

    def _slopes(self: Any, place: Place, network: Network, p: Parameters, x: Any, targets: Array | None) -> Array:
        parts, at = [], 0
        for part in _blocks(x, network):
            trace = forward(network, p, part)
            n = int(part.shape[0])
            y = trace.a[-1] if targets is None else targets[at : at + n, :]
            # L is the mean over the block; each sample's own loss is n times its share.
            parts.append(backward(network, p, trace, y, inputs=True).da[0] * float(n))
            at += n
        return parts[0] if len(parts) == 1 else place.xp.concat(parts, axis=0)

    # --- Behind the door ---

    def _outputs(self: Any, X: Any, method: str) -> tuple[Array, Place, Place]:
        """The network's outputs for X, where they live, and where the caller lives."""
        state = vars(self)
        if (
            # The short way of what is asked most: a plain array, for weights that are NumPy's.
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in FLOATS
            and "coefs_" in state
            and "feature_names_in_" not in state
            and X.shape[1] == state.get("n_features_in_")
            and 0 < X.shape[0] <= 1000
            and self._settled
        ):
            coefs, intercepts, network = self.coefs_, self.intercepts_, state.get("_network")
            dtype = getattr(coefs[0], "dtype", None)
            plain = all(type(c) is np.ndarray and c.dtype == dtype for c in (*coefs, *intercepts))
            if plain and network is not None and network.layout.n_layers == len(coefs) and np.isfinite(X).all():
                x = X if X.dtype == dtype else X.astype(dtype)
                return forward(network, Parameters([None, *coefs], [None, *intercepts]), x).a[-1], NUMPY, NUMPY
        place, network, p, x, caller = self._prepare(X, method)
        return outputs(network, p, _blocks(x, network)), place, caller

    def _prepare(self: Any, X: Any, method: str) -> tuple[Place, Network, Parameters, Any, Place]:
        check_is_fitted(self)
        with our_errors():
            place, caller = self._place(), caller_place(X)
            if self._asked is None:
                self._check_same_namespace(place, caller, method)
            dtype = self.dtype_
            inputs = check_inputs(self, X, place=place, dtype=dtype, reset=False)
            W = [None, *(building.on_place(c, place, dtype) for c in self.coefs_)]
            b = [None, *(building.on_place(c, place, dtype) for c in self.intercepts_)]
            return place, self._fitted_network(W), Parameters(W, b), inputs, caller

    def _place(self: Any) -> Place:
        """Where the weights live; after unpickling they are first brought back to the backend that was asked for."""
        check_is_fitted(self)
        if not self._settled:
            self._settled = True
            if self._asked is not None:
                place = select(*self._asked)
                dtype = place.dtype_name(self.dtype_)
                self.coefs_ = [building.on_place(c, place, dtype) for c in self.coefs_]
                self.intercepts_ = [building.on_place(c, place, dtype) for c in self.intercepts_]
        return caller_place(self.coefs_[0])

    def _check_same_namespace(self: Any, place: Place, caller: Place, method: str) -> None:
        if place.backend is caller.backend and place.device == caller.device:
            return
        cure = f'move X with xpmlp.to_backend(X, "{place.backend.name}", device="{place.device_name}")'
        raise InvalidInputError(
            f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the same device as "
            f"those passed to fit(): X is {caller.describe()}, the weights are {place.describe(plural=True)}. Either "
            f"{cure}, or fit with an explicit backend=, which predicts for callers of any namespace."
        )

    def _fitted_network(self: Any, W: Layers) -> Network:
        known: Network | None = vars(self).get("_network")
        if known is not None and known.layout.n_layers == len(W) - 1:
            return known
        # Weights that somebody set by hand: what they are, the parameters say.
        sizes = (int(W[1].shape[0]), *(int(w.shape[1]) for w in W[1:]))
        return building.build_network(self, sizes, self._loss_row(sizes[-1]))

    def _viewer(self: Any, fitted: dict[str, Any], place: Place) -> Any:
        """A fitted copy that predicts for NumPy callers, for scorers: they know no other library."""
        viewer = object.__new__(type(self))
        vars(viewer).update({name: value for name, value in vars(self).items() if name != "feature_names_in_"})
        vars(viewer).update(fitted, _asked=(place.backend.name, place.device_name), _settled=True)
        return viewer


def _blocks(inputs: Inputs, network: Network) -> Iterator[Array]:
    rows = rows_at_once(network.layout.sizes)
    nothing = np.zeros((inputs.n, 1), dtype=np.float32)
    return (x for x, _, _ in inputs.data(nothing, None, rows).batches(None))


def bring(values: Array, place: Place, caller: Place) -> Array:
    """An answer, to where the caller is; in float32 where there is no float64."""
    if place.backend is caller.backend and place.device == caller.device:
        return values
    there: HostArray = place.backend.to_numpy(values)
    return caller.asarray(there if caller.float64 else there.astype(np.float32))


def _output_itself(j: int, place: Place) -> Loss:
    """A "loss" that is output j, so that the backward pass gives the derivative of that output."""

    def value(_: Array, yhat: Array) -> Array:
        return yhat[..., j]

    def derivative(_: Array, yhat: Array) -> Array:
        xp = place.xp
        columns = xp.reshape(xp.arange(yhat.shape[-1], device=yhat.device), (1, -1))
        return xp.zeros_like(yhat) + xp.astype(columns == j, yhat.dtype)

    return Loss(f"output {j}", value, derivative)
