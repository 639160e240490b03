"""What y means to the estimators of tables: classes, and numbers that the network sees scaled."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xpmlp.backends import HostArray, Place
from xpmlp.estimators.classes import Classes, class_weights, labels_of, weigh
from xpmlp.estimators.scores import Score
from xpmlp.estimators.targets import Numbers, Samples
from xpmlp.estimators.validation import (
    NUMPY,
    Inputs,
    InvalidInputError,
    bring,
    check_targets,
    check_weights,
    is_given,
    of_validation,
    scale_of,
)
from xpmlp.network.losses import Loss
from xpmlp.network.losses import loss as find_loss
from xpmlp.network.targets import check_targets as demand_domain
from xpmlp.tabular.columns import Table, table_of
from xpmlp.training.checkpoints import Arrays, Document


class LabelsOfTables(Classes):
    """Classes: see `Targets`."""

    owner = "TabularClassifier"

    def learned(self, samples: Samples) -> "LabelsOfTables":  # noqa: ARG002 - as of numbers
        """These classes: they have no scale."""
        return self

    def rescaled(self, samples: Samples) -> Samples:
        """The samples as they are."""
        return samples


@dataclass(frozen=True, eq=False)
class NumbersOfTables(Numbers):
    """Numbers, which the network sees as (y - centre) / scale, and which never leave [low, high]: see `Targets`.

    The four have a number for each column of y.
    """

    owner = "TabularRegressor"

    centre: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    low: tuple[float, ...] = (-np.inf,)
    high: tuple[float, ...] = (np.inf,)

    @property
    def attributes(self) -> dict[str, Any]:
        """See `Targets`."""
        return {"_scales": (self.centre, self.scale, self.low, self.high)}

    @property
    def onnx_tail(self) -> dict[str, Any]:
        """See `Targets`."""
        return super().onnx_tail | {"scales": tuple(map(np.asarray, (self.centre, self.scale, self.low, self.high)))}

    def learned(self, samples: Samples) -> "NumbersOfTables":
        """These numbers with what the scales of some samples are; what weighs nothing says nothing of them."""
        y = samples.y.reshape(len(samples.y), -1).astype(np.float64)
        w = samples.w
        if w is not None:
            y, w = y[w > 0.0], w[w > 0.0] * scale_of(w)
        centre, scale = np.zeros(y.shape[1]), np.ones(y.shape[1])
        # In units of about the largest, whose squares are numbers too; powers of two change no digit.
        unit = np.ldexp(1.0, np.clip(np.frexp(np.max(np.abs(y), axis=0))[1], -1000, 1000))
        small = y / unit
        if self.row.targets == "real":
            centre = np.average(small, axis=0, weights=w)
            scale = np.sqrt(np.average((small - centre) ** 2, axis=0, weights=w)) * unit
            centre = centre * unit
        elif self.row.targets == "nonnegative":  # of a rate: to divide keeps it one
            scale = np.average(small, axis=0, weights=w) * unit
        # Where all are the same, what is left of the difference is rounding.
        flat = (y.max(axis=0) == y.min(axis=0)) & (self.row.targets == "real") | (scale < np.finfo(np.float64).tiny)
        scale = np.where(flat, 1.0, scale)
        numbers = (tuple(map(float, each)) for each in (centre, scale, y.min(axis=0), y.max(axis=0)))
        return NumbersOfTables(self.row, *numbers)

    def encode(self, y: Any, w: Any, inputs: Inputs, name: str = "sample_weight") -> Samples:
        """See `Targets`."""
        samples = super().encode(y, w, inputs, name)
        demand_domain(self.row, samples.targets)
        return self.rescaled(samples)

    def rescaled(self, samples: Samples) -> Samples:
        """The samples with their targets on these scales."""
        y = samples.y.reshape(len(samples.y), -1)
        if len(self.centre) not in (1, y.shape[1]):
            raise InvalidInputError(f"y must have {len(self.centre)} columns, as before; got {samples.y.shape}.")
        return samples._replace(targets=self.scaled(y))

    def scaled(self, y: HostArray) -> HostArray:
        """Numbers of shape (n, n_outputs) as the network sees them."""
        # Halves, because the difference of two numbers may be too large where they are not.
        away = np.asarray(y, np.float64) / 2.0 - np.asarray(self.centre) / 2.0
        made: HostArray = away / (np.asarray(self.scale) / 2.0)
        return made

    def unscaled(self, yhat: HostArray) -> HostArray:
        """Numbers again, of outputs of shape (..., n_outputs)."""
        with np.errstate(over="ignore"):  # what is too large is kept within
            wide = np.asarray(yhat, np.float64) * np.asarray(self.scale) + np.asarray(self.centre)
        within: HostArray = np.clip(wide, np.asarray(self.low), np.asarray(self.high))
        return within

    def watched(self, held_out: Samples) -> Score:
        """See `Targets`; the outputs are scaled, and so is what they are judged by."""
        y = held_out.targets
        if len(y) < 2:  # R^2 of one row is no number
            return lambda yhat: np.nan  # noqa: ARG005
        return super().watched(held_out._replace(y=y[:, 0] if y.shape[1] == 1 else y))

    def decode(self, yhat: HostArray, place: Place, caller: Place) -> HostArray:
        """See `Targets`; outputs and answers are NumPy's."""
        found = self.unscaled(yhat)
        if found.shape[1] == 1:
            return found[:, 0]
        return np.asarray(bring(self.uncrossed(found, place), place, caller))

    def write(self, arrays: Arrays) -> Document:  # noqa: ARG002
        """See `Targets`."""
        return {"scales": [list(each) for each in (self.centre, self.scale, self.low, self.high)]}


TargetsOfTables = LabelsOfTables | NumbersOfTables


def numbered(n: int) -> Inputs:
    """The numbers of n rows, in the place of inputs: what the cells of a table mean is found out stage by stage."""
    return Inputs(np.arange(n)[:, None], NUMPY, "float64")


def validation_of(targets: TargetsOfTables, validation: tuple[Any, Any, Any]) -> tuple[Table, Samples] | None:
    """The table X_val and its samples, if there are any."""
    if not is_given(validation):
        return None
    X, y, w = validation
    with of_validation():
        table = table_of(X)
        return table, targets.encode(y, w, numbered(table.n_rows), "sample_weight_val")


def labels_learned(y: Any, w: Any, inputs: Inputs, class_weight: Any) -> tuple[LabelsOfTables, Samples]:
    """The classes of a fit, two at least, and its samples."""
    y = check_targets(LabelsOfTables.owner, y, inputs, numeric=False)
    w = check_weights(w, inputs.n)
    known = two_at_least(labels_of(y))
    weights = class_weights(class_weight, known, y, w, incremental=False)
    labels = replace(known, weights=weights)
    return labels, Samples(inputs, y, labels.columns(y), weigh(weights, labels, y, w))


def two_at_least(known: Classes) -> LabelsOfTables:
    """The labels as those of tables; InvalidInputError where they are one class."""
    if len(known.classes) < 2 and known.kind != "multilabel":
        raise InvalidInputError(f"y must hold at least two classes; got 1 class, {known.classes.tolist()}.")
    return LabelsOfTables(known.kind, known.classes)


def numbers_of_tables(loss: Any, quantile: Any) -> NumbersOfTables:
    """The targets that a regressor of tables with these parameters has; a quantile says which loss."""
    if quantile is None:
        return NumbersOfTables(find_loss(loss))
    if loss not in ("pinball", "squared_error"):
        raise InvalidInputError(
            f'quantile={quantile!r} goes with the loss "pinball" and no other; got loss={loss!r}. Leave one out.'
        )
    return NumbersOfTables(
        find_loss("pinball", quantile=tuple(quantile) if isinstance(quantile, list | tuple) else quantile)
    )


def numbers_read(document: Mapping[str, Any], loss: Loss, n: int) -> NumbersOfTables:
    """The numbers that a file describes; ValueError and its kin otherwise."""
    scales = [tuple(map(float, each)) for each in document["scales"]]
    n_columns = 1 if loss.name == "pinball" else n
    finite = all(np.isfinite(number) for each in scales for number in each)
    if len(scales) != 4 or any(len(each) != n_columns for each in scales) or not finite or min(scales[1]) <= 0.0:
        raise ValueError("it must have a centre, a scale, and a lowest and highest number of each output.")
    return NumbersOfTables(loss, *scales)
