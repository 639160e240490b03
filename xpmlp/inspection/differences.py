"""The numerical derivatives, in float64.

For an element w of W[k] or b[k], the central difference

    dL/dw  ~  (L(w + h) - L(w - h)) / 2h

costs two forward passes and knows nothing of the chain rule. Two refinements make it sharp:

- The losses of each sample are subtracted before they are averaged, so their rounding errors average out.
- Where a sample steps across a kink (a ReLU's z changes sign, an absolute error's yhat passes y), the difference of the
  side that does not cross is taken for that sample. A z of exactly 0 counts as z < 0, as in the derivatives here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace
from xpmlp.inspection.models import batch_of, open_up
from xpmlp.network import Network, Parameters, Trace, backward, forward, mean, sample_losses

EPSILON = float(np.finfo(np.float64).eps)


class Compared(NamedTuple):
    """Elements of one W[k] or b[k]; arrays of shape (n,) or (m, n)."""

    numerical: HostArray
    apart: HostArray  # |ours - numerical|
    resolution: float  # what rounding alone does
    digits: str | None = None  # of the numerical derivative that is furthest from ours, where it has more than a float


class LossSurface:
    """L as a function of the flat vector, in float64, for one batch."""

    def __init__(self, model: Any, X: Array, y: Array, sample_weight: Array | None) -> None:
        opened, batch = open_up(model), batch_of(model, X, y, sample_weight)
        self.network, self.place = opened.network, opened.place
        xp = self.place.xp

        def wide(x: Array) -> Array:
            return None if x is None else xp.astype(x, xp.float64, copy=False)

        self.x, self.y, self.w = map(wide, batch)
        self.flat = self._host(self.network.layout.pack(opened.parameters)).astype(np.float64)
        self.trace, self.values = self._forward(self.flat)
        self.n = int(self.x.shape[-2])
        self.loss = float(np.mean(self._host(mean(self.values, self.w))))
        self.size_of_loss = float(np.max(self._host(mean(xp.abs(self.values), self.w))))

    def derivatives(self) -> HostArray:
        """What `backward` says, as one flat vector."""
        return self._backward(self.flat, self.trace)

    def sensitivity(self, draws: int = 3) -> HostArray:
        """How far the derivatives move if every parameter is off in its last digit: what their rounding may be."""
        rng, moved = np.random.default_rng(0), np.zeros_like(self.flat)
        for _ in range(draws):
            nudged = self.flat * (1.0 + 2.0 * EPSILON * rng.choice([-1.0, 1.0], self.flat.shape))
            moved = np.maximum(moved, np.abs(self._backward(nudged, self._forward(nudged)[0]) - self.derivatives()))
        return moved

    def compare(self, index: HostArray, ours: HostArray, h: float) -> Compared:
        """The elements `index` of the flat vector, with a step of h."""
        numerical = np.stack([self.difference(i, h) for i in index], axis=-1)
        return Compared(numerical, np.abs(ours - numerical), EPSILON * self.size_of_loss / h)

    def difference(self, i: int, h: float) -> HostArray:
        """dL/dw for element i of the flat vector, shape () or (m,)."""
        xp = self.place.xp
        above, below = self.flat.copy(), self.flat.copy()
        above[..., i] += h
        below[..., i] -= h
        # The steps as they are after rounding; b + h and b - h need not lie 2h apart.
        up, down = above[..., i] - self.flat[..., i], self.flat[..., i] - below[..., i]
        trace_above, values_above = self._forward(above)
        trace_below, values_below = self._forward(below)
        slopes = (values_above - values_below) / self._column(up + down)
        stays_above, stays_below = (
            same_side(self.network, self.trace, then, self.y) for then in (trace_above, trace_below)
        )
        if not bool(xp.all(stays_above == stays_below)):
            from_above = self._one_sided(i, up, values_above)
            from_below = self._one_sided(i, -down, values_below)
            slopes = xp.where(stays_above == stays_below, slopes, xp.where(stays_above, from_above, from_below))
        return self._host(mean(slopes, self.w))

    def _one_sided(self, i: int, step: HostArray, values: Array) -> Array:
        # To second order from L(w), L(w + step) = values, and L(w + 2 step)
        further = self.flat.copy()
        further[..., i] += 2.0 * step
        return (4.0 * values - self._forward(further)[1] - 3.0 * self.values) / self._column(2.0 * step)

    def _forward(self, flat: HostArray) -> tuple[Trace, Array]:
        trace = forward(self.network, self._parameters(flat), self.x)
        return trace, sample_losses(self.network, trace, self.y)

    def _backward(self, flat: HostArray, trace: Trace) -> HostArray:
        d = backward(self.network, self._parameters(flat), trace, self.y, self.w).d
        return self._host(self.network.layout.pack(d))

    def _parameters(self, flat: HostArray) -> Parameters:
        return self.network.layout.unpack(self.place.asarray(flat, "float64"))

    def _column(self, step: HostArray) -> Any:
        # () or (m,) to what divides losses of shape (batch,) or (m, batch)
        return float(step) if step.ndim == 0 else self.place.asarray(step[:, None], "float64")

    def _host(self, values: Array) -> HostArray:
        return np.asarray(self.place.backend.to_numpy(values))


def same_side(network: Network, before: Trace, after: Trace, y: Array) -> Array:
    """Which samples are on the same side of every kink as before, shape (batch,) or (m, batch)."""
    xp = array_namespace(after.a[-1])
    same = xp.ones(after.a[-1].shape[:-1], dtype=xp.bool, device=after.a[-1].device)
    for now, then in zip(_sides(network, after, y), _sides(network, before, y), strict=True):
        same = xp.logical_and(same, xp.all(now == then, axis=-1))
    return same


def _sides(network: Network, trace: Trace, y: Array) -> Iterator[Array]:
    for k, row in enumerate(network.activations, start=1):
        for kink in row.kinks:
            yield trace.z[k] > kink
    if network.loss.kinked:
        yield trace.a[-1] > y
