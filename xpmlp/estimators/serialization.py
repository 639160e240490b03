"""Estimators in files: parameters and labels as JSON, everything that is numbers as arrays, no code.

A value that JSON cannot say is written as an object with one key that says what it is: {"tuple": [...]},
{"optimizer": {...}}, {"number": "inf"}. A function of the user's own is none of these, and is refused.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp import checks
from xpmlp.backends import HostArray, Place
from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators import building
from xpmlp.estimators.attributes import Attributes, give, network_of
from xpmlp.estimators.classes import Classes, classes_read, text
from xpmlp.estimators.parameters import check_parameters
from xpmlp.estimators.settings import settings_of
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.io import description, storage
from xpmlp.network import Network
from xpmlp.network.activations import ACTIVATIONS, Activation, activation
from xpmlp.network.initializers import Initializer
from xpmlp.optim.optimizers import Optimizer
from xpmlp.optim.schedules import Schedule
from xpmlp.training import Carried, checkpoints
from xpmlp.training.checkpoints import Arrays, Document, Stored
from xpmlp.training.loop import Standing

# Fitted attributes that are numbers, lists of one number per epoch, or None
COUNTS = ("n_iter_", "t_", "n_features_in_")
NUMBERS = ("loss_", "best_loss_", "best_validation_score_")
CURVES = ("loss_curve_", "validation_scores_", "validation_loss_curve_")

Kind = TypeVar("Kind", bound=Attributes)


def save(estimator: Attributes, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator to one file."""
    check_is_fitted(estimator)
    storage.write(path, *stored(estimator))


def stored(estimator: Attributes) -> Stored:
    """What a file holds of a fitted estimator: a document, and arrays by name."""
    network = network_of(estimator)
    arrays: Arrays = {f"W.{k}": to_numpy(values) for k, values in enumerate(estimator.coefs_, start=1)}
    arrays |= {f"b.{k}": to_numpy(values) for k, values in enumerate(estimator.intercepts_, start=1)}
    if not all(np.all(np.isfinite(array)) for array in arrays.values()):
        raise InvalidInputError("the weights must be finite to be saved; they hold NaN or infinity.")
    for name in CURVES:
        if getattr(estimator, name, None) is not None:
            arrays[name] = np.asarray(getattr(estimator, name), dtype=np.float64)
    has = vars(estimator)
    document: Document = {
        "kind": type(estimator).__name__,
        "network": description.describe_network(network),
        "parameters": written_parameters(estimator),
        "counts": {name: int(has[name]) for name in COUNTS if name in has},
        "numbers": {name: _number(has[name]) for name in NUMBERS if name in has},
        "curves": [name for name in CURVES if name in has],
        "feature_names": list(map(str, has["feature_names_in_"])) if "feature_names_in_" in has else None,
        "slim": bool(has.get("_slim", True)),
        "versions": checkpoints.versions(),
    }
    document |= estimator._known_targets().write(arrays)
    carried: Carried | None = has.get("_carried")
    if carried is not None and settings_of(estimator).solver != "lbfgs":
        best, waited, scale, samples, of = carried.standing
        arrays |= {"waited": np.asarray(waited), "best": np.asarray(np.nan if best is None else best, np.float64)}
        words = {"t": int(carried.t), "scale": float(scale), "samples": int(samples), "of": of}
        # A warm start goes on with the standing, a partial_fit with what the optimizer remembers, too.
        optimizer = building.build_optimizer(settings_of(estimator))
        whole = not document["slim"] and building.remembers_the_same(optimizer, carried.optimizer)
        document["carried" if whole else "standing"] = words
        if whole:
            arrays |= {f"slot.{i}": to_numpy(slot) for i, slot in enumerate(carried.slots)}
    return document, arrays


def of_stored(
    cls: type[Kind], document: Mapping[str, Any], arrays: Mapping[str, HostArray], place: Place | None
) -> Kind:
    """The estimator that `stored` described, on `place`, or where X is; ValueError and its kin otherwise."""
    parameters = parameters_read(cls, document)
    asked = None if place is None else (place.backend.name, place.device_name)
    parameters["backend"], parameters["device"] = asked or (None, None)
    estimator = cls(**parameters)
    check_parameters(estimator)
    network = description.network_of(document["network"])
    if network.layout.sizes[1:-1] != tuple(building.hidden_sizes(settings_of(estimator))):
        raise ValueError("its network must have the layers that hidden_layer_sizes says.")
    fitted = _weights(network, arrays) | building.shape_attributes(network)
    fitted |= {"_asked": asked, "_settled": asked is None, "_slim": document["slim"] is not False, "_carried": None}
    fitted |= {name: _count(document["counts"][name]) for name in COUNTS if name in document["counts"]}
    if fitted.get("n_features_in_", 0) != network.layout.sizes[0]:
        raise ValueError(f"it needs n_features_in_ = {network.layout.sizes[0]}.")
    fitted |= {name: _read(document["numbers"][name]) for name in NUMBERS if name in document["numbers"]}
    for name in CURVES:
        if name in document["curves"]:
            fitted[name] = [float(value) for value in arrays[name].reshape(-1)] if name in arrays else None
    if document["feature_names"] is not None:
        fitted["feature_names_in_"] = np.asarray([text(name) for name in document["feature_names"]], dtype=object)
    if hasattr(cls, "predict_proba"):
        fitted |= classes_read(Classes, document, arrays, network).attributes
    if "carried" in document or "standing" in document:
        fitted["_carried"] = _carried(document, arrays, estimator, network.layout.size)
    give(estimator, fitted)
    return estimator


def _weights(network: Network, arrays: Mapping[str, HostArray]) -> dict[str, Any]:
    dtype = arrays["W.1"].dtype
    if dtype not in (np.float64, np.float32):
        raise ValueError(f"weights must be float64 or float32; got {dtype}.")
    found: dict[str, Any] = {"coefs_": [], "intercepts_": []}
    for name, k, _, _, shape, _ in network.layout.segments:
        array = arrays[f"{name}.{k}"]
        if array.shape != shape or array.dtype != dtype or not np.all(np.isfinite(array)):
            raise ValueError(f"{name}.{k} must be {shape}, {dtype} and finite; got {array.shape}, {array.dtype}.")
        found["coefs_" if name == "W" else "intercepts_"].append(array)
    return found


def _carried(document: Mapping[str, Any], arrays: Mapping[str, HostArray], estimator: Attributes, size: int) -> Carried:
    optimizer = building.build_optimizer(settings_of(estimator))
    slots: tuple[HostArray, ...] = ()
    if "carried" in document:
        slots = tuple(arrays[f"slot.{i}"] for i in range(len(optimizer.slots)))
    if any(slot.shape != (size,) or slot.dtype != arrays["W.1"].dtype for slot in slots):
        raise ValueError(f"what the optimizer remembers must have shape ({size},).")
    words = document["carried" if "carried" in document else "standing"]
    best, scale = float(arrays["best"]), float(words["scale"])
    samples, of = _count(words["samples"]), words.get("of", "")
    if not isinstance(of, str):
        raise TypeError(f"what a best value is the best of must be text; got {of!r}.")
    standing = Standing(None if np.isnan(best) else best, int(arrays["waited"]), scale, samples, of)
    return Carried(optimizer, slots, _count(words["t"]), standing)


# --- Parameters ---

_ROWS: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "optimizer": (Optimizer, description.describe_optimizer, description.optimizer_of),
    "schedule": (Schedule, description.describe_schedule, description.schedule_of),
    "initializer": (Initializer, description.describe_initializer, description.initializer_of),
}


def written_parameters(estimator: Any, without: Iterable[str] = ()) -> Document:
    """The parameters of an estimator, in words that JSON has."""
    parameters = estimator.get_params(deep=False).items()
    return {name: _written(name, value) for name, value in parameters if name not in without}


def parameters_read(cls: Any, document: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a document names, for an estimator of this class; ValueError and its kin otherwise."""
    parameters = {name: _read(value) for name, value in document["parameters"].items()}
    unknown = set(parameters) - set(cls._get_param_names())
    if unknown:  # those that are missing are newer than the file: their default is what there was before
        raise ValueError(f"{cls.__name__} has no parameters {sorted(unknown)}.")
    return parameters


def _written(name: str, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)) and not (isinstance(value, tuple) and any(map(callable, value))):
        values = [_written(name, item) for item in value]
        return values if isinstance(value, list) else {"tuple": values}
    if isinstance(value, np.ndarray):
        return {"array": [_written(name, item) for item in value.reshape(-1).tolist()]}
    if isinstance(value, dict):
        return {"dict": [[_written(name, key), _written(name, item)] for key, item in value.items()]}
    if isinstance(value, np.random.RandomState):
        return {"random_state": random_state_document(value)}
    if isinstance(value, Activation) and checks.genuine(value, ACTIVATIONS):
        return {"activation": value.name}
    for kind, (row, describe, _) in _ROWS.items():
        if isinstance(value, row):
            return {kind: describe(value)}
    raise InvalidInputError(
        f"a file holds names and numbers, no functions and no other objects, so it cannot hold {name}={value!r}. "
        f"Put something else there before you save: set_params({name}=...)."
    )


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tuple":
            return tuple(_read(item) for item in content)
        case "array":
            return np.asarray([_read(item) for item in content])
        case "dict":
            return {_read(key): _read(item) for key, item in content}
        case "number":
            return {"inf": float("inf"), "-inf": float("-inf"), "nan": float("nan")}[content]
        case "activation":
            return activation(text(content))
        case "random_state":
            return random_state_of(content)
    return _ROWS[kind][2](content)


def _number(value: float | None) -> Any:
    if value is None or np.isfinite(value):
        return None if value is None else float(value)
    return {"number": str(float(value))}


def random_state_document(rng: np.random.RandomState) -> Document:
    """The state of one of NumPy's older generators, in integers."""
    name, key, at, has_gauss, gauss = rng.get_state(legacy=True)
    if name != "MT19937":
        raise InvalidInputError(f"random_state must be an MT19937 to be saved; it is a {name}.")
    return {"key": [int(word) for word in key], "at": int(at), "has_gauss": int(has_gauss), "gauss": float(gauss)}


def random_state_of(document: Mapping[str, Any]) -> np.random.RandomState:
    """The generator of a document."""
    key, at = document["key"], document["at"]
    words = isinstance(key, list) and len(key) == 624 and all(type(n) is int and 0 <= n < 2**32 for n in key)
    if not words or type(at) is not int or not 0 <= at <= 624 or document["has_gauss"] not in (0, 1):
        raise ValueError("a random state must have 624 words and a place among them.")
    rng = np.random.RandomState()
    rng.set_state(("MT19937", np.asarray(key, dtype=np.uint32), at, document["has_gauss"], float(document["gauss"])))
    return rng


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        raise ValueError(f"a count must be a whole number; got {value!r}.")
    return value
