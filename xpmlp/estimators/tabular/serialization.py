"""Estimators of tables in files: the network's arrays; preparation, classes and parameters as JSON; no code."""

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import HostArray, Place, select
from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators.attributes import give
from xpmlp.estimators.serialization import parameters_read, written_parameters
from xpmlp.estimators.tabular.attributes import TabularAttributes
from xpmlp.estimators.tabular.parameters import settings_of_table
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.io import storage
from xpmlp.mlp import content_of, mlp_of, serialization
from xpmlp.tabular import TablePreparation
from xpmlp.training.checkpoints import Document, Stored

HISTORIES = {"history_": "search.", "refit_history_": "refit."}  # attributes, and what their arrays begin with
NUMBERS = ("validation_loss_", "validation_score_")

Kind = TypeVar("Kind", bound=TabularAttributes)


def save(estimator: TabularAttributes, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator to one file."""
    check_is_fitted(estimator)
    storage.write(path, *stored(estimator))


def stored(estimator: TabularAttributes) -> Stored:
    """What a file holds of a fitted estimator: a document, and arrays by name."""
    net = content_of(estimator.network_)
    p = np.asarray(to_numpy(net.p))
    if not np.all(np.isfinite(p)):
        raise InvalidInputError("the weights must be finite to be saved; they hold NaN or infinity.")
    document, arrays = serialization.stored(net, p, {}, net.orders)
    for attribute, start in HISTORIES.items():
        for name, curve in (getattr(estimator, attribute) or {}).items():
            arrays[start + name] = np.asarray(curve, dtype=np.float64)
    document |= {
        "kind": type(estimator).__name__,
        "parameters": parameters_of_table(estimator),
        "preparation": estimator.preparation_.to_dict(),
        "best_epoch": estimator.best_epoch_,
        "stopped_by": list(estimator.stopped_by_),
        "numbers": {name: float(getattr(estimator, name)) for name in NUMBERS if np.isfinite(getattr(estimator, name))},
        "refitted": estimator.refit_history_ is not None,
    }
    return document | estimator._known_targets().write(arrays), arrays


def parameters_of_table(estimator: TabularAttributes, without: Iterable[str] = ()) -> Document:
    """The parameters of an estimator of tables, in words that JSON has."""
    written = written_parameters(estimator, without={*without, "preparation"})
    given: Any = estimator.preparation
    if given is None:
        return written | {"preparation": None}
    if hasattr(given, "kinds_"):
        return written | {"preparation": {"fitted": given.to_dict()}}
    return written | {"preparation": {"parameters": written_parameters(given)}}


def _preparation_read(written: Any) -> TablePreparation | None:
    if written is None:
        return None
    if "fitted" in written:
        return TablePreparation.from_dict(written["fitted"])
    return TablePreparation(**parameters_read(TablePreparation, written))


def of_stored(
    cls: type[Kind], document: Mapping[str, Any], arrays: Mapping[str, HostArray], place: Place | None
) -> Kind:
    """The estimator that `stored` described, on `place` or on NumPy; ValueError and its kin otherwise."""
    written = dict(document["parameters"])
    preparing = written.pop("preparation", None)
    parameters = parameters_read(cls, {"parameters": written}) | {"preparation": _preparation_read(preparing)}
    asked = (None, None) if place is None else (place.backend.name, place.device_name)
    parameters["backend"], parameters["device"] = asked
    estimator = cls(**parameters)
    settings_of_table(estimator)
    net = serialization.of_stored(document, arrays, place or select(None))
    preparation = TablePreparation.from_dict(document["preparation"])
    network = net.network
    if net.n_networks is not None or network.n_inputs != len(preparation.groups_):
        raise ValueError("its network must take what its preparation gives.")
    histories: dict[str, Any] = {
        attribute: {
            name.removeprefix(start): array.reshape(-1).tolist()
            for name, array in arrays.items()
            if name.startswith(start)
        }
        for attribute, start in HISTORIES.items()
    }
    if document["refitted"] is not True:
        histories["refit_history_"] = None
    best = document["best_epoch"]
    if type(best) is not int or not 0 <= best <= max(map(len, histories["history_"].values()), default=0):
        raise ValueError(f"its best epoch must be one of its history; got {best!r}.")
    stopped_by = document["stopped_by"]
    if not isinstance(stopped_by, list) or not all(isinstance(word, str) for word in stopped_by):
        raise TypeError("what stopped it must be a list of words.")
    numbers = {name: float(document["numbers"].get(name, np.nan)) for name in NUMBERS}
    net = net._replace(history=histories["refit_history_"] or histories["history_"])
    give(estimator, histories | numbers | {"best_epoch_": best, "stopped_by_": tuple(stopped_by)})
    give(estimator, cls._targets_read(document, arrays, network).attributes)
    estimator._show(mlp_of(net), preparation)
    return estimator
