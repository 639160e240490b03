"""The loss and the score of shards that are held out: sums over all processes, nothing of their length."""

from functools import partial
from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.arithmetic import unwarned
from xpmlp.estimators.classes import Classes
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.estimators.settings import Settings
from xpmlp.network import Network, Parameters, forward
from xpmlp.runners.reduction import Sum
from xpmlp.shards.lanes import LaneData
from xpmlp.training import Outcome
from xpmlp.training.evaluation import judged


def demand_sums(targets: Any, settings: Settings) -> None:
    """Refuse a score that is no sum over shards."""
    own = settings.scoring
    if own is not None and own != "loss":
        raise InvalidParameterError(
            f"scoring={own!r} needs all predictions at once, and shards that are held out are seen one by one; "
            "pass X_val and y_val as arrays, or leave scoring at None or 'loss'."
        )
    if own is None and len(getattr(targets, "quantiles", ())) > 0 and settings.early_stopping:
        raise InvalidParameterError("the score of quantiles is no sum over shards; choose scoring='loss'.")


class Judge:
    """Called with parameters, it says what they make of the shards that are held out.

    The score is accuracy for classes and R^2 for numbers, NaN for quantiles: another cannot be had from sums.
    """

    def __init__(self, network: Network, data: LaneData, targets: Any, together: Sum | None) -> None:
        self.network, self.data, self.targets, self.together = network, data, targets, together
        self.origin: HostArray | None = None  # that R^2 measures from: any number near the targets serves

    @unwarned
    def __call__(self, p: Array) -> Outcome:
        """The outcome of these parameters."""
        parameters = self.network.layout.unpack(p)
        if self.origin is None and not isinstance(self.targets, Classes):
            y = self.data.shards.sample()[1]
            self.origin = self.data.encode(y, None, len(y))[0].mean(axis=0)
        total = self.data.summed(partial(self._sums, parameters), self.together)
        loss, weight = total[:2].tolist()
        mean = np.asarray(loss / weight if weight else np.nan, self.data.dtype)
        return Outcome(mean, None, self._score(total[2:], weight))

    def _sums(self, parameters: Parameters, x: Array, y: Array, w: Array | None) -> HostArray:
        """Of some rows: the losses, the weights, and what the score is made of."""
        host = self.data.place.backend.to_numpy
        losses, yhat = judged(self.network, forward(self.network, parameters, x), y)
        values = np.asarray(host(losses), np.float64)
        weights = np.ones(len(values)) if w is None else np.asarray(host(w), np.float64)
        score = self._sums_of_score(np.asarray(host(y)), np.asarray(host(yhat)), weights)
        return np.concatenate([[values @ weights, weights.sum()], score])

    def _sums_of_score(self, y: HostArray, yhat: HostArray, w: HostArray) -> Any:
        targets = self.targets
        if isinstance(targets, Classes):
            if targets.kind == "multiclass":
                right = np.argmax(yhat, axis=1) == np.argmax(y, axis=1)
            else:
                right = np.all((yhat > 0.5) == (y > 0.5), axis=1)
            return np.array([w @ right])
        if targets.quantiles:
            return np.zeros(0)
        y = y.astype(np.float64)
        off, far = (y - yhat) ** 2, y - self.origin
        return np.concatenate([w @ off, w @ far, w @ far**2])

    def _score(self, sums: HostArray, weight: float) -> float:
        if not weight or not len(sums):
            return float("nan")
        if isinstance(self.targets, Classes):
            return float(sums[0] / weight)
        off, far, squares = sums.reshape(3, -1)
        spread = squares - far**2 / weight
        explained = (off == 0.0).astype(np.float64)
        usual = (off != 0.0) & (spread > 0.0)
        explained[usual] = 1.0 - off[usual] / spread[usual]
        return float(np.average(explained))
