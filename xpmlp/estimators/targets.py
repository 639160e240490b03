"""Classes as targets and back: how labels are written for the network, how its outputs are read, what classes weigh.

binary      one output, P(the second class)                 targets (n, 1) of 0 and 1
multiclass  one output per class, which sum to 1            targets (n, n_classes), one-hot
multilabel  one output per label, each on its own           targets (n, n_labels) of 0 and 1
"""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.estimators.validation import InvalidInputError


class Labels(NamedTuple):
    """The classes, sorted, and how they are written."""

    kind: str  # "binary", "multiclass" or "multilabel"
    classes: HostArray

    @property
    def n_outputs(self) -> int:
        """Columns of the targets."""
        return 1 if self.kind == "binary" else len(self.classes)

    @property
    def loss(self) -> str:
        """The loss that suits them."""
        return "cross_entropy" if self.kind == "multiclass" else "binary_cross_entropy"

    def encode(self, y: HostArray) -> HostArray:
        """Targets of shape (n, n_outputs), as booleans."""
        if self.kind == "multilabel":
            return np.asarray(y, dtype=bool)
        codes = self.codes(y)
        if self.kind == "binary":
            return np.asarray(codes[:, None] == 1)
        return np.asarray(codes[:, None] == np.arange(len(self.classes)))

    def codes(self, y: HostArray) -> HostArray:
        """The place of each label in `classes`."""
        return np.searchsorted(self.classes, y)

    def decode(self, yhat: Array, place: Place, caller: Place) -> Array:
        """The predicted classes, in the caller's namespace, from outputs that live on `place`."""
        to_numpy = place.backend.to_numpy
        if self.kind == "multilabel":
            return caller.asarray(to_numpy(yhat > 0.5).astype(np.int64))
        if self.kind == "binary":
            codes = to_numpy(yhat[:, 0] > 0.5).astype(np.int64)
        elif "int64" in place.backend.lacks(place.device):  # argmax is int64 by the standard
            codes = np.argmax(to_numpy(yhat), axis=-1)
        else:
            codes = to_numpy(place.xp.argmax(yhat, axis=-1))
        if len(self.classes) == 1:
            codes = np.zeros_like(codes)
        labels = self.classes[codes]
        # Strings live nowhere but on the host.
        return labels if caller.backend.name == "numpy" or labels.dtype.kind not in "biuf" else caller.asarray(labels)


def labels_of(y: HostArray) -> Labels:
    """The labels that `y` holds."""
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    if kind == "multilabel-indicator":
        return Labels("multilabel", np.arange(y.shape[1]))
    if y.ndim == 2:
        raise InvalidInputError(
            f"y must hold one label per sample, or 0 and 1 in a column per label; got {kind} of shape {y.shape}."
        )
    return labels_among(np.unique(y))


def labels_among(classes: HostArray) -> Labels:
    """The labels of a problem with these classes, one per sample."""
    return Labels("multiclass" if len(classes) > 2 else "binary", classes)


def classes_given(classes: Any) -> HostArray:
    """The argument `classes` of a first partial_fit, sorted."""
    return np.asarray(unique_labels(classes))


def check_known(y: HostArray, labels: Labels, *, all_of_them: bool) -> None:
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
    class_weight: Any, labels: Labels, y: HostArray, w: HostArray | None, *, incremental: bool
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


def weigh(weights: dict[Any, float] | None, labels: Labels, y: HostArray, w: HostArray | None) -> HostArray | None:
    """Sample weights times the weights of their classes."""
    if weights is None:
        return w
    of_samples = np.asarray([weights[c] for c in labels.classes])[labels.codes(y)]
    total: HostArray = of_samples if w is None else w * of_samples
    if not np.any(total > 0.0):
        raise InvalidInputError("class_weight leaves no sample with a weight above 0.")
    return total
