"""Classes as targets and back: how labels are written for the network, how its outputs are read, what classes weigh.

binary      one output, P(the second class)                 targets (n, 1) of 0 and 1
multiclass  one output per class, which sum to 1            targets (n, n_classes), one-hot
multilabel  one output per label, each on its own           targets (n, n_labels) of 0 and 1
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.estimators.front_door import odd_classes
from xpmlp.estimators.scores import Score, accuracy_of
from xpmlp.estimators.targets import Samples, Twin
from xpmlp.estimators.validation import Inputs, InvalidInputError, check_targets, check_weights, host
from xpmlp.io import storage
from xpmlp.network import Network
from xpmlp.network.losses import Loss
from xpmlp.network.losses import loss as find_loss
from xpmlp.training.checkpoints import Arrays, Document


@dataclass(frozen=True, eq=False)
class Classes:
    """Classes, sorted, and what they mean to a network: see `Targets`."""

    owner = "MLPClassifier"

    kind: str  # "binary", "multiclass" or "multilabel"
    classes: HostArray
    weights: Mapping[Any, float] | None = None  # of each class; None where they all weigh the same
    label_smoothing: float = 0.0

    @property
    def n_outputs(self) -> int:
        """Columns of the targets."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def attributes(self) -> dict[str, Any]:
        """See `Targets`."""
        return {"classes_": self.classes, "_kind": self.kind, "_weights": self.weights}

    def loss(self, n_outputs: int) -> Loss:
        """See `Targets`."""
        if n_outputs == 1 or self.kind == "multilabel":
            return find_loss("binary_cross_entropy")
        return find_loss("cross_entropy", label_smoothing=float(self.label_smoothing))

    def encode(self, y: Any, w: Any, inputs: Inputs, name: str = "sample_weight") -> Samples:
        """See `Targets`."""
        y = check_targets(self.owner, y, inputs, numeric=False)
        check_known(y, self, all_of_them=False)
        w = check_weights(w, inputs.n, name)
        return Samples(inputs, y, self.columns(y), weigh(self.weights, self, y, w))

    def columns(self, y: HostArray) -> HostArray:
        """Targets of shape (n, n_outputs), as booleans."""
        if self.kind == "multilabel":
            return np.asarray(y, dtype=bool)
        if self.kind == "binary":  # the second class, if there is one
            second = y == self.classes[1] if len(self.classes) > 1 else np.zeros(len(y), bool)
            return np.asarray(second)[:, None]
        return np.asarray(self.codes(y)[:, None] == np.arange(len(self.classes)))

    def codes(self, y: HostArray) -> HostArray:
        """The place of each label in `classes`."""
        return np.searchsorted(self.classes, y)

    def decode(self, yhat: Array, place: Place, caller: Place) -> Array:
        """The predicted classes, in the caller's namespace, from outputs that live on `place`."""
        to_numpy = place.backend.to_numpy
        if self.kind == "multilabel":
            return caller.asarray(to_numpy(yhat > 0.5).astype(np.int64))
        if len(self.classes) == 1:
            labels = np.repeat(self.classes, int(yhat.shape[0]))
        elif self.kind == "binary":  # without their numbers, which would be as large as the answer
            labels = np.where(to_numpy(yhat[:, 0] > 0.5), self.classes[1:], self.classes[:1])
        elif "int64" in place.backend.lacks(place.device):  # argmax is int64 by the standard
            labels = self.classes[np.argmax(to_numpy(yhat), axis=-1)]
        else:
            labels = self.classes[to_numpy(place.xp.argmax(yhat, axis=-1))]
        # Strings live nowhere but on the host.
        return labels if caller.backend.name == "numpy" or labels.dtype.kind not in "biuf" else caller.asarray(labels)

    def strata(self, samples: Samples) -> HostArray | None:
        """See `Targets`."""
        if self.kind == "multilabel":
            return None
        return self.codes(samples.y)

    def score(self, y: Any, predicted: HostArray, w: Any) -> float:
        """See `Targets`."""
        return float(accuracy_score(y, predicted, sample_weight=w))

    def watched(self, held_out: Samples) -> Score:
        """See `Targets`."""
        exclusive = self.kind != "multilabel"
        return accuracy_of(held_out.targets, held_out.w, exclusive=exclusive, n_classes=len(self.classes))

    def write(self, arrays: Arrays) -> Document:
        """See `Targets`."""
        labels = _written(self.classes, arrays) | {"kind": self.kind}
        weights = None if self.weights is None else [float(self.weights[c]) for c in self.classes]
        return {"labels": labels, "class_weights": weights}

    @property
    def onnx_tail(self) -> dict[str, Any]:
        """See `Targets`."""
        return {"labels": (self.kind, self.classes)}

    def twin(self, loss: Loss, n_outputs: int) -> Twin:  # noqa: ARG002
        """See `Targets`."""
        y = np.eye(len(self.classes), dtype=int) if self.kind == "multilabel" else self.classes
        return Twin("MLPClassifier", {}, y)


def learned(
    y: Any,
    w: Any,
    inputs: Inputs,
    *,
    known: Classes | None,
    class_weight: Any,
    label_smoothing: float,
    incremental: bool,
    warm_start: bool,
    classes: Any,
) -> tuple[Classes, Samples]:
    """The classes of a fit, and its samples: those that are `known`, those of the argument `classes`, or those of y."""
    y = check_targets(Classes.owner, y, inputs, numeric=False)
    w = check_weights(w, inputs.n)
    if known is None and incremental and classes is None:
        raise InvalidInputError("classes must be passed on the first call to partial_fit.")
    if known is not None:
        labels = known
        if classes is not None and not np.array_equal(labels.classes, classes_given(classes)):
            raise InvalidInputError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: {labels.classes!r}"
            )
    else:
        labels = labels_of(y)
        if classes is not None and labels.kind != "multilabel":
            labels = labels_among(classes_given(classes))
        elif classes is not None:
            labels = replace(labels, classes=classes_given(classes))
    if known is not None or classes is not None:
        check_known(y, labels, all_of_them=warm_start and not incremental)
    weights = class_weights(class_weight, labels, y, w, incremental=incremental)
    labels = replace(labels, weights=weights, label_smoothing=float(label_smoothing))
    return labels, Samples(inputs, y, labels.columns(y), weigh(weights, labels, y, w))


def labels_of(y: HostArray) -> Classes:
    """The labels that `y` holds."""
    kind = type_of_target(y, input_name="y")
    if kind != "binary":
        check_classification_targets(y)  # it asks for the kind again, which takes a tenth of a millisecond
    if kind == "multilabel-indicator":
        return Classes("multilabel", np.arange(y.shape[1]))
    if y.ndim == 2:
        raise InvalidInputError(
            f"y must hold one label per sample, or 0 and 1 in a column per label; got {kind} of shape {y.shape}."
        )
    return labels_among(np.unique(y))


def labels_among(classes: HostArray) -> Classes:
    """The labels of a problem with these classes, one per sample."""
    return Classes("multiclass" if len(classes) > 2 else "binary", classes)


def classes_given(classes: Any) -> HostArray:
    """The argument `classes` of a first partial_fit, sorted."""
    classes = host(classes)
    if odd := odd_classes(classes):
        raise InvalidInputError(odd)
    return np.asarray(unique_labels(classes))


def check_known(y: HostArray, labels: Classes, *, all_of_them: bool) -> None:
    """InvalidInputError where `y` holds other labels than those that were learned."""
    if labels.kind == "multilabel":
        kinds = ("multilabel-indicator", "binary")
        if y.ndim != 2 or y.shape[1] != len(labels.classes) or type_of_target(y) not in kinds:
            raise InvalidInputError(
                f"y must be a 0/1 matrix with {len(labels.classes)} columns, one per label, as before; got {y.shape}."
            )
        return
    if y.ndim != 1:
        raise InvalidInputError(f"y must hold one label per sample, as before; got shape {y.shape}.")
    classes = np.unique(y)
    if all_of_them:
        if set(classes) != set(labels.classes):
            raise InvalidInputError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. Previously "
                f"got {labels.classes}, `y` has {classes}"
            )
    elif len(np.setdiff1d(classes, labels.classes)):
        raise InvalidInputError(
            f"`y` has classes not in `self.classes_`. `self.classes_` has {labels.classes}. 'y' has {classes}."
        )


def class_weights(
    class_weight: Any, labels: Classes, y: HostArray, w: HostArray | None, *, incremental: bool
) -> dict[Any, float] | None:
    """The weight of each class, or None where they all weigh the same.

    "balanced" is n / (n_classes * n_c), where n and n_c sum sample weights; King & Zeng, Political Analysis 9 (2001).
    """
    if class_weight is None:
        return None
    if labels.kind == "multilabel":
        raise InvalidInputError("class_weight needs one class per sample; y has several labels. Use sample_weight.")
    if class_weight == "balanced":
        if incremental:
            raise InvalidInputError(
                "class_weight 'balanced' is not supported for partial_fit: a batch does not know how frequent the "
                "classes are. Pass a dict, for instance from sklearn.utils.class_weight.compute_class_weight."
            )
        w = np.ones(len(y)) if w is None else w
        counts = np.bincount(labels.codes(y), weights=w, minlength=len(labels.classes))
        share = w.sum() / len(labels.classes)
        return {c: share / n if n else 0.0 for c, n in zip(labels.classes, counts, strict=True)}
    known = list(labels.classes)
    for name, weight in class_weight.items():
        if name not in known:
            raise InvalidInputError(
                f"class_weight names a class {name!r} that is not among the classes {labels.classes}."
            )
        if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)) or not 0.0 <= weight < np.inf:
            raise InvalidInputError(f"class_weight[{name!r}] must be a finite number of at least 0; got {weight!r}.")
    return {c: float(class_weight.get(c, 1.0)) for c in known}


def weigh(weights: Mapping[Any, float] | None, labels: Classes, y: HostArray, w: HostArray | None) -> HostArray | None:
    """Sample weights times the weights of their classes."""
    if weights is None:
        return w
    of_samples = np.asarray([weights[c] for c in labels.classes])[labels.codes(y)]
    total: HostArray = of_samples if w is None else w * of_samples
    if not np.any(total > 0.0):
        raise InvalidInputError("class_weight leaves no sample with a weight above 0.")
    return total


# --- In files ---

WIDEST = 2**20  # characters of all classes together, padded to one width

Labels = TypeVar("Labels", bound=Classes)


def _written(classes: HostArray, arrays: Arrays) -> Document:
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
    return {"dtype": dtype, "values": [*map(_word, classes)]}


def _word(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and type(value) not in (str, int, float, bool):
        raise InvalidInputError(
            f"class labels must be numbers, booleans or text to be saved; one is {value!r}, a {type(value).__name__}."
        )
    return value


def classes_read(
    kind: type[Labels], document: Mapping[str, Any], arrays: Mapping[str, HostArray], network: Network
) -> Labels:
    """What `Classes.write` described, for this network; ValueError and its kin otherwise."""
    known = _labels_read(document["labels"], arrays)
    weights = document["class_weights"]
    if weights is not None:
        weights = {c: float(w) for c, w in zip(known, weights, strict=True)}
    classes = kind(text(document["labels"]["kind"]), known, weights)
    if classes.kind not in ("binary", "multiclass", "multilabel"):
        raise ValueError(f"there are no classes of kind {classes.kind!r}.")
    n_outputs = network.layout.sizes[-1]
    if classes.n_outputs != n_outputs or classes.loss(n_outputs).name != network.loss.name:
        raise ValueError("its classes must go with its outputs.")
    return classes


def _labels_read(document: Mapping[str, Any], arrays: Mapping[str, HostArray]) -> HostArray:
    if document["dtype"] == "numbers":
        classes = arrays["classes"]
    else:
        values = document["values"]
        if not isinstance(values, list) or not all(v is None or type(v) in (str, int, float, bool) for v in values):
            raise TypeError("class labels must be numbers, booleans or text.")
        classes = np.empty(len(values), dtype=object)
        classes[:] = values
        if document["dtype"] != "object":
            classes = np.asarray([text(value) for value in values], dtype=np.str_)
            width = int(text(document["dtype"]).removeprefix("<U"))
            if width * len(values) <= WIDEST:  # as it was, or as wide as it needs to be
                classes = classes.astype(f"<U{max(width, classes.itemsize // 4)}")
    if classes.ndim != 1:
        raise ValueError("classes must be a list.")
    return classes


def text(value: Any) -> str:
    """A string, where a file must hold one."""
    if not isinstance(value, str):
        raise TypeError(f"a name must be text; got {type(value).__name__}.")
    return value
