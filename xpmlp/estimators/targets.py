"""What y means to an estimator: one object, in which a classifier and a regressor differ.

`Targets` says what it must answer; `Numbers` are those of a regressor, `classes.Classes` those of a classifier.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from sklearn.metrics import d2_pinball_score, r2_score

from xpmlp._typing import Array
from xpmlp.backends import HostArray, Place
from xpmlp.checks import demand_no_loss
from xpmlp.estimators.scores import Score, r2_of
from xpmlp.estimators.validation import NUMPY, Inputs, InvalidInputError, bring, check_targets, check_weights
from xpmlp.network.losses import Loss
from xpmlp.network.losses import loss as find_loss
from xpmlp.training.checkpoints import Arrays, Document


class Samples(NamedTuple):
    """Checked samples: what is trained on, or held out."""

    inputs: Inputs
    y: HostArray  # as the caller has it: labels, numbers
    targets: HostArray  # as the network has it, of shape (n, n_outputs)
    w: HostArray | None

    def take(self, rows: HostArray) -> "Samples":
        """Some of the samples."""
        w = None if self.w is None else self.w[rows]
        return Samples(self.inputs.take(rows), self.y[rows], self.targets[rows], w)


class Twin(NamedTuple):
    """What makes scikit-learn's own estimator of the same kind."""

    name: str  # of its class
    parameters: Mapping[str, Any]
    y: HostArray  # the least that it can be fitted to


class Targets(Protocol):
    """What y means: how it is written for the network, how its outputs are read, judged and stored."""

    @property
    def attributes(self) -> dict[str, Any]:
        """What a fitted estimator shows of it."""
        ...

    @property
    def onnx_tail(self) -> dict[str, Any]:
        """What an ONNX graph adds to the outputs, in the words of `interop.onnx.estimator_to_onnx`."""
        ...

    def loss(self, n_outputs: int) -> Loss:
        """The loss of a network with so many outputs."""
        ...

    def encode(self, y: Any, w: Any, inputs: Inputs, name: str = "sample_weight") -> Samples:
        """Samples of targets that are known; `name` is that of the weights.

        Raises
        ------
        ValueError, TypeError
            If y holds what it cannot.
        """
        ...

    def strata(self, samples: Samples) -> HostArray | None:
        """The group of each sample, a whole number: a part that is held out keeps their shares. None: no groups."""
        ...

    def decode(self, yhat: Array, place: Place, caller: Place) -> Array:
        """Predictions, where the caller is, of outputs (n, n_outputs) that live on `place`."""
        ...

    def score(self, y: Any, predicted: HostArray, w: Any) -> float:
        """How good predictions are; 1 at best."""
        ...

    def watched(self, held_out: Samples) -> Score:
        """`score` of these samples, from the network's outputs, made once for many epochs."""
        ...

    def write(self, arrays: Arrays) -> Document:
        """What a file holds of it: words here, and numbers in `arrays`."""
        ...

    def twin(self, loss: Loss, n_outputs: int) -> Twin:
        """scikit-learn's estimator of the same kind; ValueError where it has none."""
        ...


@dataclass(frozen=True)
class Numbers:
    """Numbers, with one column per output, and the loss that measures them: see `Targets`."""

    owner = "MLPRegressor"

    row: Loss

    @property
    def quantiles(self) -> tuple[float, ...]:
        """Those of the loss "pinball"."""
        return tuple(self.row.parameters.get("quantile", ()))

    @property
    def attributes(self) -> dict[str, Any]:
        """See `Targets`."""
        return {}

    @property
    def onnx_tail(self) -> dict[str, Any]:
        """See `Targets`."""
        return {"quantiles": self.quantiles}

    def loss(self, n_outputs: int) -> Loss:  # noqa: ARG002
        """See `Targets`."""
        return self.row

    def encode(self, y: Any, w: Any, inputs: Inputs, name: str = "sample_weight") -> Samples:
        """See `Targets`."""
        y = check_targets(self.owner, y, inputs, numeric=True)
        if len(self.quantiles) > 1 and y.ndim > 1:
            raise InvalidInputError(f"quantiles are of one output: y must have shape (n,); got {y.shape}.")
        targets = y[:, None] if y.ndim == 1 else y
        demand_no_loss(targets, "y", np, inputs.dtype)
        return Samples(inputs, y, targets, check_weights(w, inputs.n, name))

    def strata(self, samples: Samples) -> None:  # noqa: ARG002
        """See `Targets`."""
        return

    def decode(self, yhat: Array, place: Place, caller: Place) -> Array:
        """See `Targets`."""
        if yhat.shape[1] == 1:
            return bring(yhat[:, 0], place, caller)
        return bring(self.uncrossed(yhat, place), place, caller)

    def uncrossed(self, yhat: Array, place: Place) -> Array:
        """The outputs with the quantiles of each sample sorted: so they cannot cross.

        Chernozhukov et al., Econometrica 78 (2010).
        """
        if len(self.quantiles) < 2:
            return yhat
        ranks = np.argsort(np.argsort(self.quantiles)).astype(np.int32)
        return place.xp.take(place.xp.sort(yhat, axis=-1), place.asarray(ranks), axis=1)

    def score(self, y: Any, predicted: HostArray, w: Any) -> float:
        """See `Targets`."""
        if not self.quantiles:
            return float(r2_score(y, predicted, sample_weight=w))
        if len(self.quantiles) == 1:  # of each output
            return float(d2_pinball_score(y, predicted, sample_weight=w, alpha=self.quantiles[0]))
        columns = predicted.reshape(len(predicted), -1).T
        pairs = zip(self.quantiles, columns, strict=True)
        return float(np.mean([d2_pinball_score(y, column, sample_weight=w, alpha=q) for q, column in pairs]))

    def watched(self, held_out: Samples) -> Score:
        """See `Targets`."""
        if not self.quantiles:
            return r2_of(held_out.y, held_out.w, held_out.inputs.dtype)
        return lambda yhat: self.score(held_out.y, self.uncrossed(yhat, NUMPY), held_out.w)

    def write(self, arrays: Arrays) -> Document:  # noqa: ARG002
        """See `Targets`."""
        return {}

    def twin(self, loss: Loss, n_outputs: int) -> Twin:
        """See `Targets`."""
        if len(self.quantiles) > 1:
            raise InvalidInputError("scikit-learn's MLP knows no quantiles that share a network.")
        known = loss.name if loss.name in ("squared_error", "poisson") else "squared_error"
        return Twin("MLPRegressor", {"loss": known}, np.zeros((2, n_outputs)) if n_outputs > 1 else np.zeros(2))


def numbers_of(loss: Any, quantile: Any) -> Numbers:
    """The targets that a regressor with these parameters has."""
    if isinstance(loss, str) and loss == "pinball":
        return Numbers(
            find_loss("pinball", quantile=tuple(quantile) if isinstance(quantile, (list, tuple)) else quantile)
        )
    return Numbers(find_loss(loss))
