"""All that is known of one model's training, for `diagnosis` to read."""

from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.inspection.curvature import curvature
from xpmlp.inspection.health import PREFIX, measure, records_of
from xpmlp.inspection.models import batch_of, curves_of, descent_of, open_up

MOST_PRODUCTS = 20_000_000  # samples times parameters: a second or so for the curvature, measured on one core


class Observed:
    """All that is known of one model, for the complaints to read."""

    def __init__(self, model: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.model = open_up(model)
        records = records_of(model)
        self.epochs = records.get("epoch", np.zeros(0))
        self.n_records = len(self.epochs)
        self.now = X is not None
        if self.now:
            record = measure(self.model, batch_of(model, X, y, sample_weight))
            for name, value in record.items():
                before = records.get(name, np.full((self.n_records, *np.shape(value)), np.nan))
                records[name] = np.concatenate([before, np.asarray(value, dtype=float)[None]])
        self.records = {name: values.reshape(len(values), -1) for name, values in records.items()}
        self.curves = {
            name: curve.reshape(len(curve), -1) for name, curve in curves_of(model).items() if PREFIX not in name
        }
        self.rate_times_curvature = self._edge(model, X, y, sample_weight)
        self.networks = range(self.model.n_networks or 1)
        self.K = self.model.network.layout.n_layers

    def _edge(self, model: Any, X: Any, y: Any, sample_weight: Any) -> HostArray:
        # Of each network; NaN where it cannot be known: no batch, another optimizer, no float64, too long to wait for
        unknown = np.full(self.model.n_networks or 1, np.nan)
        descent = descent_of(model) if X is not None and y is not None else None
        if descent is None or not self.model.place.float64:
            return unknown
        if len(X) * self.model.network.layout.n_parameters > MOST_PRODUCTS:
            return unknown
        rate, factors = descent
        found = curvature(model, X, y, sample_weight, learning_rate=rate, learning_rate_factors=factors)
        return np.atleast_1d(np.asarray(found))

    @property
    def seen(self) -> str:
        """What was looked at."""
        parts = ["this batch"] if self.now else []
        if self.n_records:
            at = f"epochs {self.epochs[0]:g} to {self.epochs[-1]:g}" if self.n_records > 1 else "one epoch"
            parts.append(f"{self.n_records} records, {at}" if self.n_records > 1 else "one record")
        if not parts:
            parts.append("loss curves only")
        return ", ".join(parts)

    @property
    def missing(self) -> str:
        """What was not looked at, and how to change that."""
        if self.n_records or self.now:
            return ""
        return (
            "No layer was looked at. Call diagnose(model, X, y) with a batch, or record every epoch: "
            "callbacks=[xpmlp.Health(X, y)]."
        )

    def series(self, name: str, network: int) -> HostArray:
        """The values of one network at each record, NaN where unknown; empty where there are none at all."""
        values = self.records.get(name)
        return np.zeros(0) if values is None else values[:, network]

    def last(self, name: str, network: int) -> float:
        """The latest value that is known."""
        values = self.series(name, network)
        values = values[~np.isnan(values)]
        return float(values[-1]) if values.size else float("nan")

    def since(self, holds: HostArray) -> tuple[int | None, str]:
        """The epoch from which on a condition has held at each record, and the words for it; "" if it does not hold."""
        if not holds.size or not holds[-1]:
            return None, ""
        first = len(holds) - int(np.argmin(holds[::-1])) if not holds.all() else 0
        if first >= self.n_records:
            return None, "on this batch"
        return int(self.epochs[first]), f"since epoch {self.epochs[first]:g}"

    def who(self, network: int) -> int | None:
        """How a finding names the network."""
        return None if self.model.n_networks is None else network

    def curve(self, name: str, network: int) -> HostArray:
        """A curve of one network."""
        values = self.curves.get(name)
        return np.zeros(0) if values is None or not values.size else values[:, network]
