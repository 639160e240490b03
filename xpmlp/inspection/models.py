"""A model opened up for those who look: what `health` and `plotting` need of an MLP or of a fitted estimator.

An estimator of tables is its network behind its preparation: X is a table as its `fit` takes it.

Both models answer the same questions here, so that neither reader has to know which of them it reads.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, backend_of, place_of, select
from xpmlp.backends.transfer import to_backend, to_numpy
from xpmlp.mlp import MLP, content_of
from xpmlp.mlp import descent_of as plain_descent_of
from xpmlp.network import Layers, Network, Parameters


class Opened(NamedTuple):
    """What a model is made of."""

    network: Network
    parameters: Parameters
    place: Place
    dtype: str
    n_networks: int | None

    @property
    def W(self) -> Layers:
        """The weights, by layer."""
        return self.parameters.W

    @property
    def b(self) -> Layers:
        """The biases, by layer."""
        return self.parameters.b


class Batch(NamedTuple):
    """Checked samples where the model lives."""

    x: Array
    y: Array | None
    w: Array | None


def place_of_model(model: Any) -> Place:
    """Where the weights of an MLP or a fitted estimator live; NumPy of what is neither: `open_up` says so."""
    if isinstance(model, MLP):
        return model.place
    if _is_of_tables(model) and hasattr(model, "network_"):
        return model.network_.place  # type: ignore[no-any-return]
    from xpmlp.estimators.attributes import Attributes, place_of_weights

    known = isinstance(model, Attributes) and hasattr(model, "coefs_")
    return place_of_weights(model) if known else select("numpy")


def open_up(model: Any) -> Opened:
    """The network, weights and place of an MLP or a fitted estimator.

    Raises
    ------
    TypeError
        If it is neither.
    ValueError
        If it is an estimator that was not fitted.
    """
    if isinstance(model, MLP):
        return Opened(model.network, model.layout.unpack(model.parameters), model.place, model.dtype, model.n_networks)
    _demand_estimator(model)
    if _is_of_tables(model):
        return open_up(model.network_)
    from xpmlp.estimators.prediction import opened

    network, p, place = opened(model)
    return Opened(network, p, place, model.dtype_, None)


def batch_of(model: Any, X: Any, y: Any = None, sample_weight: Any = None) -> Batch:
    """The samples as the model's network takes them, brought from wherever they are.

    For an MLP, y is what `MLP.fit` takes; for an estimator, what its `fit` takes.
    """
    if isinstance(model, MLP):
        x, targets, w = (_brought(values, model) for values in (X, y, sample_weight))
        door = content_of(model).door
        return Batch(door.inputs(x), None, None) if y is None else Batch(*door.samples(x, targets, w)[:3])
    _demand_estimator(model)
    if _is_of_tables(model):
        from xpmlp.estimators.tabular.looking import samples_for as samples_of_table

        return Batch(*samples_of_table(model, X, y, sample_weight))
    from xpmlp.estimators.prediction import samples_for

    return Batch(*samples_for(model, X, y, sample_weight))


def batch_with_targets(model: Any, X: Any, y: Any, sample_weight: Any = None) -> Batch:
    """The same where there must be targets; TypeError where there are none."""
    if y is None:
        raise TypeError("y must hold the targets of the batch; got None.")
    return batch_of(model, X, y, sample_weight)


def epochs_of(model: Any) -> int:
    """How many epochs the model has been trained for, over all fits; of an estimator of tables, in this training."""
    if isinstance(model, MLP):
        return len(model.history.get("loss", ()))
    return epochs_of(model.network_) if _is_of_tables(model) else len(model.loss_curve_)


def descent_of(model: Any) -> tuple[float, tuple[float, ...] | None] | None:
    """The rate, and its factors by layer, if the model is trained by plain gradient descent; None of any other."""
    if isinstance(model, MLP):
        return plain_descent_of(model)
    if _is_of_tables(model):
        return None
    plain = model.solver == "sgd" and not model.momentum and model.learning_rate == "constant"
    return (float(model.learning_rate_init), None) if plain else None


def curves_of(model: Any) -> dict[str, HostArray]:
    """What was recorded once per epoch, by the names of `MLP.history`; each of shape (epochs,) or (epochs, m).

    `model` may also be such a dict.
    """
    if isinstance(model, Mapping):
        found = dict(model)
    elif isinstance(model, MLP):
        found = dict(model.history)
    elif _is_of_tables(model):  # the training that made the network: the second, or the first up to its best epoch
        best = model.best_epoch_ or None  # of a fit that ended before there was one, all
        found = model.refit_history_ or {name: values[:best] for name, values in model.history_.items()}
    else:
        names = {
            "loss": "loss_curve_",
            "validation_loss": "validation_loss_curve_",
            "validation_score": "validation_scores_",
        }
        found = {name: getattr(model, attribute, None) for name, attribute in names.items()}
    return {name: np.asarray(values, dtype=float) for name, values in found.items() if values is not None}


def host(values: Any) -> HostArray:
    """Numbers of any library, or lists, or a data frame, as NumPy's."""
    if hasattr(values, "toarray"):
        values = values.toarray()
    return np.asarray(to_numpy(values))


def per_network(values: HostArray, model: Opened, network: int) -> HostArray:
    """Those of one network, or member, of values that have a leading axis where each has its own."""
    several, what = model.n_networks or model.network.members, "member" if model.network.members else "network"
    if not several:
        return values
    if not 0 <= network < several:
        raise ValueError(
            f"network must be one of {several}{' members' * (what == 'member')}, 0 the first; got {network}."
        )
    return np.asarray(values[network]) if values.ndim == 3 else values


def _brought(values: Any, model: MLP) -> Any:
    if values is None or isinstance(values, (list, tuple)):
        return values
    place = model.place
    if backend_of(values) is None:  # a data frame
        values = np.asarray(values)
    here = place_of(x=values)
    if here.backend is place.backend and here.device_name == place.device_name:
        return values
    return to_backend(values, place.backend.name, device=place.device_name, dtype=model.dtype)


def _demand_estimator(model: Any) -> None:
    from xpmlp.estimators.attributes import Attributes

    name, of_tables = type(model).__name__, _is_of_tables(model)
    if not isinstance(model, Attributes) and not of_tables:
        raise TypeError(f"an MLP or an estimator of xpmlp is needed here; got {name}.")
    if not hasattr(model, "network_" if of_tables else "coefs_"):
        raise ValueError(f"this {name} has no weights yet; call its fit first.")


def _is_of_tables(model: Any) -> bool:
    from xpmlp.estimators.tabular.attributes import TabularAttributes

    return isinstance(model, TabularAttributes)
