"""What an estimator has, declared: the fitted attributes, and what the modules above ask of them.

`coefs_` and `intercepts_` are the truth: they say what is computed, in which dtype and where.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place, select
from xpmlp.estimators import building
from xpmlp.estimators.settings import settings_of
from xpmlp.estimators.targets import Samples, Targets
from xpmlp.estimators.validation import Inputs, InvalidInputError, caller_place
from xpmlp.network import Layers, Network
from xpmlp.training import Carried


class Attributes(BaseEstimator, ABC):  # type: ignore[misc]
    """An estimator as the functions of this folder see it. Annotations make no attributes: `fit` does."""

    coefs_: list[Array]
    intercepts_: list[Array]
    n_features_in_: int
    feature_names_in_: HostArray
    n_iter_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    t_: int
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None
    validation_loss_curve_: list[float] | None

    _network: Network
    _carried: Carried | None  # what a fit that is continued goes on with
    _slim: bool  # whether files and pickles leave the vectors of the optimizer behind
    _asked: tuple[str, str | None] | None = None  # the backend and device that `fit` was told to use; None: follow X
    _settled: bool = True  # False after unpickling, until the weights are back where they were asked to be

    @abstractmethod
    def _known_targets(self) -> Targets:
        """What y means to this fitted estimator."""

    @abstractmethod
    def _learn(
        self, y: Any, w: Any, inputs: Inputs, *, anew: bool, incremental: bool, classes: Any = None
    ) -> tuple[Targets, Samples]:
        """What y means in a fit that begins, and its samples."""


def give(estimator: Any, attributes: Mapping[str, Any], instead_of: Iterable[str] = ()) -> None:
    """Give an estimator attributes, in place of others."""
    own = vars(estimator)
    for name in instead_of:
        own.pop(name, None)
    own.update(attributes)


def place_of_weights(estimator: Attributes) -> Place:
    """Where the weights live; after unpickling they are first brought back to the backend that was asked for."""
    check_is_fitted(estimator)
    if not estimator._settled:
        estimator._settled = True
        if estimator._asked is not None:
            place = select(*estimator._asked)
            dtype = place.dtype_name(dtype_of(estimator))
            estimator.coefs_ = [building.on_place(c, place, dtype) for c in estimator.coefs_]
            estimator.intercepts_ = [building.on_place(c, place, dtype) for c in estimator.intercepts_]
    return caller_place(next(iter(estimator.coefs_), None))


def dtype_of(estimator: Attributes) -> str:
    """The dtype of the weights and of all arithmetic."""
    first = estimator.coefs_[0]
    name = str(first.dtype if hasattr(first, "dtype") else np.asarray(first).dtype).rpartition(".")[2]
    return name if name.startswith("float") else "float64"  # lists of whole numbers, that somebody assigned


def demand_weights_that_fit(estimator: Attributes) -> None:
    """InvalidInputError where `coefs_` and `intercepts_`, which anybody may assign, are of no network."""
    W, b = ([tuple(np.shape(values)) for values in of] for of in (estimator.coefs_, estimator.intercepts_))
    n_in = int(estimator.n_features_in_)
    if len(W) != len(b) or not W:
        raise InvalidInputError(f"coefs_ and intercepts_ must be as many; got {len(W)} and {len(b)}.")
    for k, (shape, bias) in enumerate(zip(W, b, strict=True)):
        if len(shape) != 2 or shape[0] != n_in:
            raise InvalidInputError(
                f"coefs_[{k}] must have shape ({n_in}, n), as what enters it has {n_in} columns; got {shape}."
            )
        n_in = shape[1]
        if bias != (n_in,):
            raise InvalidInputError(
                f"intercepts_[{k}] must have shape ({n_in},), as coefs_[{k}] is {shape}; got {bias}."
            )


def network_of(estimator: Attributes, W: Layers | None = None) -> Network:
    """The network of a fitted estimator; `W` are its weights by layer, by default `coefs_`."""
    W = [None, *estimator.coefs_] if W is None else W
    known: Network | None = vars(estimator).get("_network")
    if known is not None and known.layout.n_layers == len(W) - 1:
        return known
    # Weights that somebody set by hand: what they are, the parameters say.
    sizes = (int(W[1].shape[0]), *(int(w.shape[1]) for w in W[1:]))
    return building.build_network(settings_of(estimator), sizes, estimator._known_targets().loss(sizes[-1]))
