"""Estimators in files: parameters and labels as JSON, everything that is numbers as arrays, no code.

A value that JSON cannot say is written as an object with one key that says what it is: {"tuple": [...]},
{"optimizer": {...}}, {"number": "inf"}. A function of the user's own is none of these, and is refused.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import HostArray, Place
from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators import building
from xpmlp.estimators.parameters import check_parameters
from xpmlp.estimators.targets import Labels
from xpmlp.estimators.validation import InvalidInputError
from xpmlp.io import description, storage
from xpmlp.network import Network, Parameters
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

WIDEST = 2**20  # characters of all classes together, padded to one width


class Filing:
    """The part of an estimator that is saved and loaded."""

    def save(self: Any, path: str | os.PathLike[str]) -> None:
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
        check_is_fitted(self)
        storage.write(path, *self._stored())

    def to_onnx(self: Any, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
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
        from xpmlp.interop.onnx import estimator_to_onnx

        check_is_fitted(self)
        network = self._fitted_network([None, *self.coefs_])
        W = [None, *(to_numpy(values) for values in self.coefs_)]
        b = [None, *(to_numpy(values) for values in self.intercepts_)]
        if hasattr(self, "classes_"):
            estimator_to_onnx(path, network, Parameters(W, b), dtype, labels=(self._labels().kind, self.classes_))
        else:
            estimator_to_onnx(path, network, Parameters(W, b), dtype, quantiles=self._quantiles())

    def _stored(self: Any) -> Stored:
        network = self._fitted_network([None, *self.coefs_])
        arrays: Arrays = {f"W.{k}": to_numpy(values) for k, values in enumerate(self.coefs_, start=1)}
        arrays |= {f"b.{k}": to_numpy(values) for k, values in enumerate(self.intercepts_, start=1)}
        if not all(np.all(np.isfinite(array)) for array in arrays.values()):
            raise InvalidInputError("the weights must be finite to be saved; they hold NaN or infinity.")
        for name in CURVES:
            if getattr(self, name, None) is not None:
                arrays[name] = np.asarray(getattr(self, name), dtype=np.float64)
        document: Document = {
            "kind": type(self).__name__,
            "network": description.describe_network(network),
            "parameters": written_parameters(self),
            "counts": {name: int(getattr(self, name)) for name in COUNTS if hasattr(self, name)},
            "numbers": {name: _number(getattr(self, name)) for name in NUMBERS if hasattr(self, name)},
            "curves": [name for name in CURVES if hasattr(self, name)],
            "feature_names": list(map(str, self.feature_names_in_)) if hasattr(self, "feature_names_in_") else None,
            "slim": bool(getattr(self, "_slim", True)),
            "versions": checkpoints.versions(),
        }
        if hasattr(self, "classes_"):
            document["labels"] = _labels(self.classes_, arrays)
            document["labels"]["kind"] = self._labels().kind
            weights = getattr(self, "_weights", None)
            document["class_weights"] = None if weights is None else [float(weights[c]) for c in self.classes_]
        carried = getattr(self, "_carried", None)
        if carried is not None and not document["slim"]:  # after partial_fit, whose next call goes on with it
            best, waited, scale, samples, of = carried.standing
            arrays |= {f"slot.{i}": to_numpy(slot) for i, slot in enumerate(carried.slots)}
            arrays |= {"waited": np.asarray(waited), "best": np.asarray(np.nan if best is None else best, np.float64)}
            document["carried"] = {"t": int(carried.t), "scale": float(scale), "samples": int(samples), "of": of}
        return document, arrays

    @classmethod
    def _of_stored(cls, document: Mapping[str, Any], arrays: Mapping[str, HostArray], place: Place | None) -> Self:
        """The estimator that `_stored` described, on `place`, or where X is; ValueError and its kin otherwise."""
        parameters = {name: _read(value) for name, value in document["parameters"].items()}
        unknown = set(parameters) - set(cls._get_param_names())  # type: ignore[attr-defined]
        if unknown:  # those that are missing are newer than the file: their default is what there was before
            raise ValueError(f"{cls.__name__} has no parameters {sorted(unknown)}.")
        asked = None if place is None else (place.backend.name, place.device_name)
        parameters["backend"], parameters["device"] = asked or (None, None)
        estimator: Any = cls(**parameters)
        check_parameters(estimator)
        network = description.network_of(document["network"])
        if network.layout.sizes[1:-1] != tuple(building.hidden_sizes(estimator)):
            raise ValueError("its network must have the layers that hidden_layer_sizes says.")
        output = network.activations[-1].name
        fitted: dict[str, Any] = _weights(network, arrays) | {
            "n_layers_": network.layout.n_layers + 1,
            "n_outputs_": network.layout.sizes[-1],
            "out_activation_": building.SCIKIT_LEARN_NAMES.get(output, output),
            "_network": network,
            "_asked": asked,
            "_settled": asked is None,
            "_slim": document["slim"] is not False,
            "_carried": None,
        }
        fitted |= {name: _count(document["counts"][name]) for name in COUNTS if name in document["counts"]}
        if fitted.get("n_features_in_", 0) != network.layout.sizes[0]:
            raise ValueError(f"it needs n_features_in_ = {network.layout.sizes[0]}.")
        fitted |= {name: _read(document["numbers"][name]) for name in NUMBERS if name in document["numbers"]}
        for name in CURVES:
            if name in document["curves"]:
                fitted[name] = [float(value) for value in arrays[name].reshape(-1)] if name in arrays else None
        if document["feature_names"] is not None:
            fitted["feature_names_in_"] = np.asarray([_text(name) for name in document["feature_names"]], dtype=object)
        if hasattr(cls, "predict_proba"):
            fitted |= _learned_labels(document, arrays, network)
        if "carried" in document:
            fitted["_carried"] = _carried(document["carried"], arrays, estimator, network.layout.size)
        vars(estimator).update(fitted)
        return estimator  # type: ignore[no-any-return]


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


def _learned_labels(document: Mapping[str, Any], arrays: Mapping[str, HostArray], network: Network) -> dict[str, Any]:
    classes = _classes(document["labels"], arrays)
    labels = Labels(_text(document["labels"]["kind"]), classes)
    if labels.n_outputs != network.layout.sizes[-1] or labels.loss != network.loss.name:
        raise ValueError("its classes must go with its outputs.")
    weights = document["class_weights"]
    if weights is not None:
        weights = {c: float(w) for c, w in zip(classes, weights, strict=True)}
    return {"classes_": classes, "_kind": labels.kind, "_weights": weights}


def _carried(document: Mapping[str, Any], arrays: Mapping[str, HostArray], estimator: Any, size: int) -> Any:
    optimizer = building.build_optimizer(estimator)
    slots = tuple(arrays[f"slot.{i}"] for i in range(len(optimizer.slots)))
    if any(slot.shape != (size,) or slot.dtype != arrays["W.1"].dtype for slot in slots):
        raise ValueError(f"what the optimizer remembers must have shape ({size},).")
    best = float(arrays["best"])
    scale = float(document["scale"])
    samples, of = _count(document["samples"]), document.get("of", "")
    if not isinstance(of, str):
        raise TypeError(f"what a best value is the best of must be text; got {of!r}.")
    standing = Standing(None if np.isnan(best) else best, int(arrays["waited"]), scale, samples, of)
    return Carried(optimizer, slots, _count(document["t"]), standing)


# --- Classes ---


def _labels(classes: HostArray, arrays: Arrays) -> Document:
    """Numbers go to an array, text and what else an object may be into the document."""
    if classes.dtype in storage.NAMES:
        arrays["classes"] = classes
        return {"dtype": "numbers"}
    if classes.dtype.kind not in "UO":
        raise InvalidInputError(
            f"class labels must be numbers, booleans or text to be saved; these are {classes.dtype}. "
            "Fit on their names: y.astype(str)."
        )
    dtype = f"<U{classes.itemsize // 4}" if classes.dtype.kind == "U" else "object"
    return {"dtype": dtype, "values": [*map(_label, classes)]}


def _label(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and type(value) not in (str, int, float, bool):
        raise InvalidInputError(
            f"class labels must be numbers, booleans or text to be saved; one is {value!r}, a {type(value).__name__}."
        )
    return value


def _classes(document: Mapping[str, Any], arrays: Mapping[str, HostArray]) -> HostArray:
    if document["dtype"] == "numbers":
        classes = arrays["classes"]
    else:
        values = document["values"]
        if not isinstance(values, list) or not all(v is None or type(v) in (str, int, float, bool) for v in values):
            raise TypeError("class labels must be numbers, booleans or text.")
        classes = np.empty(len(values), dtype=object)
        classes[:] = values
        if document["dtype"] != "object":
            classes = np.asarray([_text(value) for value in values], dtype=np.str_)
            width = int(_text(document["dtype"]).removeprefix("<U"))
            if width * len(values) <= WIDEST:  # as it was, or as wide as it needs to be
                classes = classes.astype(f"<U{max(width, classes.itemsize // 4)}")
    if classes.ndim != 1:
        raise ValueError("classes must be a list.")
    return classes


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
    if isinstance(value, Activation) and ACTIVATIONS.get(value.name) == value:
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
            return activation(_text(content))
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


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a name must be text; got {type(value).__name__}.")
    return value
