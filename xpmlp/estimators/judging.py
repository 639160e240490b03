"""The loss and the score of shards that are held out: sums over all processes, nothing of their length."""

from typing import Any

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.arithmetic import unwarned
from xpmlp.estimators.classes import Classes
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.estimators.settings import Settings
from xpmlp.network import Network, forward, sample_losses
from xpmlp.runners.reduction import Sum
from xpmlp.shards.lanes import LaneData
from xpmlp.training import Outcome


class Judge:
    """Called with parameters, it says what they make of the shards that are held out.

    The score is accuracy for classes and R^2 for numbers; another cannot be had from sums.
    """

    def __init__(
        self, network: Network, data: LaneData, targets: Any, settings: Settings, together: Sum | None
    ) -> None:
        self.network, self.data, self.targets, self.together = network, data, targets, together
        own = settings.scoring
        if own is not None and own != "loss":
            raise InvalidParameterError(
                f"scoring={own!r} needs all predictions at once, and shards that are held out are seen one by one; "
                "pass X_val and y_val as arrays, or leave scoring at None or 'loss'."
            )
        if own is None and len(getattr(targets, "quantiles", [])) > 0 and settings.early_stopping:
            raise InvalidParameterError("the score of quantiles is no sum over shards; choose scoring='loss'.")
        self.origin: HostArray | None = None  # that R^2 measures from: any number near the targets serves

    @unwarned
    def __call__(self, p: Array) -> Outcome:
        """The outcome of these parameters."""
        parameters = self.network.layout.unpack(p)
        host = self.data.place.backend.to_numpy
        loss, weight, sums = 0.0, 0.0, np.zeros(1)
        if self.origin is None and not isinstance(self.targets, Classes):
            y = self.data.shards.sample()[1]
            self.origin = self.data.encode(y, None, len(y))[0].mean(axis=0)
        for x, y, w in self.data.batches(None):
            if int(x.shape[0]) == 0:
                continue
            trace = forward(self.network, parameters, x)
            values = np.asarray(host(sample_losses(self.network, trace, y)), np.float64)
            weights = np.ones(len(values)) if w is None else np.asarray(host(w), np.float64)
            loss, weight = loss + float(values @ weights), weight + float(weights.sum())
            sums = sums + self._sums(np.asarray(host(y)), np.asarray(host(trace.a[-1])), weights)
        said = [(loss, weight, sums)] if self.together is None else self.together.agree((loss, weight, sums))
        loss, weight = sum(one[0] for one in said), sum(one[1] for one in said)
        score = self._score(sum(one[2] for one in said), weight)
        mean = np.asarray(loss / weight if weight else np.nan, self.data.dtype)
        return Outcome(mean, None, score)

    def _sums(self, y: HostArray, yhat: HostArray, w: HostArray) -> Any:
        targets = self.targets
        if isinstance(targets, Classes):
            if targets.kind == "multiclass":
                right = np.argmax(yhat, axis=1) == np.argmax(y, axis=1)
            else:
                right = np.all((yhat > 0.5) == (y > 0.5), axis=1)
            return np.array([w @ right])
        if yhat.shape != y.shape:
            return np.zeros(1)
        y = y.astype(np.float64)
        off, far = (y - yhat) ** 2, y - self.origin
        return np.stack([w @ off, w @ far, w @ far**2])

    def _score(self, sums: Any, weight: float) -> float:
        if not weight:
            return float("nan")
        if isinstance(self.targets, Classes):
            return float(sums[0] / weight)
        if sums.ndim == 1:
            return float("nan")
        off, far, squares = sums
        spread = squares - far**2 / weight
        explained = (off == 0.0).astype(np.float64)
        usual = (off != 0.0) & (spread > 0.0)
        explained[usual] = 1.0 - off[usual] / spread[usual]
        return float(np.average(explained))
