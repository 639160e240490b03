"""The numerical derivatives, in float64, with what they cannot resolve.

For an element w of an array the loss of each sample is computed at w, w +- h, w +- 2h and w +- 4h. It knows nothing of
the chain rule, and gives, for each sample,

- the derivative, from central differences: (4 D(h) - D(2h)) / 3, whose truncation shows in the same with 2h and 4h;
- those of either side, of second order, whose truncation shows likewise. Where they differ the sample stands on a kink,
  or crosses one, and a derivative between them is right;
- the rounding of a loss: the fourth difference is nothing else at such a step. It is not taken for less than what a
  last digit of the loss is, and than what the last digits of the parameters do to it.

The losses of each sample, of members the mean of theirs, are subtracted before they are averaged. Where a step resolves
too little (a large loss, small derivatives, a kink nearby) others are tried, and for each sample the one that resolves
most counts.
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.backends.arithmetic import unwarned
from xpmlp.inspection.kinks import kinks_of
from xpmlp.inspection.models import batch_with_targets, open_up
from xpmlp.network import Parameters, Trace, backward, forward, losses_of_samples, mean
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES
from xpmlp.network.targets import check_targets

EPSILON = float(np.finfo(np.float64).eps)
OFFSETS = (0, 1, -1, 2, -2, 4, -4)  # in steps
FURTHER = (32.0, 1024.0, 1.0 / 32.0)  # times the first step, where that does not do
ROOM = 2**21  # numbers in the arrays of networks that are computed at once
ROUNDINGS = 4.0  # times the largest that was seen, or must be reckoned with
OURS = 8.0  # times what the last digits of parameters and targets do to a derivative


class Compared(NamedTuple):
    """Elements of one array of the parameters; arrays of shape (n,) or (m, n)."""

    numerical: HostArray
    apart: HostArray  # |ours - numerical|
    bound: HostArray  # what rounding and truncation may have made of that, at most
    digits: str | None = None  # of the numerical derivative that is furthest from ours, where it has more than a float


class Sides(NamedTuple):
    """The derivative of the loss of each sample, shape (elements, m, batch): between `low` and `high`, give or take."""

    low: HostArray
    high: HostArray
    bound: HostArray

    def better(self, other: "Sides") -> "Sides":
        """For each sample and element what is known more closely; `other` only where the two do not contradict."""
        with np.errstate(invalid="ignore"):
            room = self.bound + other.bound
            apart = (other.low > self.high + room) | (other.high < self.low - room)
            chosen = apart | (self.high - self.low + self.bound <= other.high - other.low + other.bound)
        return Sides(*(np.where(chosen, one, two) for one, two in zip(self, other, strict=True)))


class LossSurface:
    """L as a function of the flat vector, in float64, for one batch."""

    def __init__(self, model: Any, X: Array, y: Array, sample_weight: Array | None) -> None:
        opened, batch = open_up(model), batch_with_targets(model, X, y, sample_weight)
        self.network, self.place = opened.network, opened.place
        xp = self.place.xp

        def wide(x: Array) -> Array:
            return None if x is None else xp.astype(x, xp.float64, copy=False)

        self.x, self.y, self.w = map(wide, batch)
        self.y = check_targets(self.network.loss, self.y)  # soft targets in float32 sum to 1 in float32 only
        self.flat = self._host(self.network.layout.pack(opened.parameters)).astype(np.float64)
        self.trace, self.values = self._forward(self.flat)
        self.n = int(self.x.shape[-2])
        self.loss = float(np.mean(self._host(mean(self.values, self.w))))
        self.kinks = kinks_of(self.network, self.trace, self.y, self.place)  # of members with an axis of their own
        # (m, batch) of everything for each sample, also where there is one network
        self.m = self.flat.shape[0] if self.flat.ndim == 2 else 1
        self.share = np.broadcast_to(self._shares(), (self.m, self.n))
        self.roundings = self._roundings()
        self._of_samples: dict[int, HostArray] = {}

    @property
    def on_kinks(self) -> int:
        """How many samples stand on a kink, of any network."""
        return int(np.sum(np.any(self.standing, axis=0)))

    @cached_property
    def standing(self) -> HostArray:
        """Whether each sample stands on a kink, shape (m, batch)."""
        on: HostArray = np.sum(self.kinks, axis=0) > 0
        on = np.any(on, axis=0) if self.network.members else on
        return on.reshape(self.m, self.n)

    def kinks_that_move(self, element: int) -> HostArray:
        """On how many kinks each sample stands that a step of an element can leave, shape (batch,) or (m, batch).

        An element of layer k moves one unit of that layer, all of them where parts mix them, and all of those above;
        of members that share it, in each.
        """
        k = self.network.layout.locate(element)[1]
        parts = self.network.parts[k] if k < len(self.network.parts) else ()
        of_layer = self.kinks[k] if parts else np.minimum(self.kinks[k], 1)
        moved: HostArray = of_layer + np.sum(self.kinks[k + 1 :], axis=0)
        return np.sum(moved, axis=0) if self.network.members else moved

    def derivatives(self) -> HostArray:
        """What `backward` says, as one flat vector."""
        return self._backward(self.flat, self.trace, self.y, self.w)

    def derivatives_of_sample(self, n: int) -> HostArray:
        """What `backward` says of the loss of one sample, shape (m, P)."""
        if n not in self._of_samples:
            alone = self.place.asarray(np.eye(self.n)[n], "float64")
            found = self._backward(self.flat, self.trace, self.y, alone)
            self._of_samples[n] = found.reshape(self.m, -1)
        return self._of_samples[n]

    @unwarned
    def sensitivity(self, draws: int = 3) -> HostArray:
        """How far the derivatives move if every parameter and target is off in its last digit: what rounding may do."""
        rng, moved = np.random.default_rng(0), np.zeros_like(self.flat)
        targets, ours = self._host(self.y), self.derivatives()
        for _ in range(draws):
            nudged, y = (v * (1.0 + 2.0 * EPSILON * rng.choice([-1.0, 1.0], v.shape)) for v in (self.flat, targets))
            there = self._backward(nudged, self._forward(nudged)[0], self.place.asarray(y, "float64"), self.w)
            moved = np.maximum(moved, np.abs(there - ours))
        return np.where(np.isfinite(moved), moved, 0.0)

    @unwarned
    def compare(self, index: HostArray, ours: HostArray, h: float, tolerance: float) -> Compared:
        """The elements `index` of one array, with a step of h, and others where that resolves too little."""
        self.h, noise = h, self.noise[..., index]
        sides = self.sides(index, h)
        compared = self._compared(index, ours, sides, noise)
        for factor in FURTHER:
            scale = float(np.max(np.abs(ours)))
            resolution = resolved(np.abs(ours), compared.bound, scale)
            if np.all(compared.apart <= tolerance * scale) and resolution <= 1e-3 * scale:
                break
            sides = sides.better(self.sides(index, factor * h))
            compared = self._compared(index, ours, sides, noise)
        return compared

    def _compared(self, index: HostArray, ours: HostArray, sides: Sides, noise: HostArray) -> Compared:
        low, high, bound = sides
        middle = (low + high) / 2.0
        by_sample, bound = middle.copy(), bound.copy()
        kinks = self.kinks_that_move(int(index[0])).reshape(-1, self.n)
        # Between two sides, or on several kinks at once, where the sides along one axis are not all there are: what
        # `backward` takes for that sample is one of the derivatives there.
        for n in np.flatnonzero(np.any(low < high, axis=(0, 1)) | np.any(kinks > 1, axis=0)):
            own = self.derivatives_of_sample(int(n))[:, index].T  # (elements, m)
            inside = (low[..., n] - bound[..., n] <= own) & (own <= high[..., n] + bound[..., n])
            free = np.broadcast_to(kinks[:, n] > 1, own.shape)
            own = np.where(free, own, np.clip(own, low[..., n], high[..., n]))
            standing = (low[..., n] < high[..., n]) | (free & ~inside)
            by_sample[..., n] = np.where(standing, own, middle[..., n])
            bound[..., n] = np.where(standing & (inside | free), 0.0, bound[..., n])

        def averaged(values: HostArray) -> HostArray:
            # To (n,), or (m, n), as the flat vector is
            total: HostArray = np.sum(np.where(self.share > 0.0, values * self.share, 0.0), axis=-1)
            return total.T.reshape(ours.shape)

        with np.errstate(all="ignore"):
            numerical, off = averaged(by_sample), averaged(bound) + noise
            apart = np.abs(ours - numerical)
            # Derivatives from elsewhere may take the other side of a kink; a multiple of ours is no other side.
            below, above = averaged(low), averaged(high)
            between = (below - off <= ours) & (ours <= above + off) & (apart > off)
            if ours.size == 1:  # a multiple of whatever: a side, or the middle
                between &= np.any([np.abs(ours - it) <= off for it in (below, above, (below + above) / 2.0)], axis=0)
            if np.any(between) and not _a_multiple(ours, numerical, off):
                off = off + np.where(between, above - below, 0.0)
                numerical, apart = np.where(between, ours, numerical), np.where(between, 0.0, apart)
        if not np.isfinite(self.loss):  # there is nothing that derivatives could be compared with
            return Compared(np.zeros_like(ours), np.zeros_like(ours), np.full_like(ours, np.inf))
        known = np.isfinite(numerical) & np.isfinite(off)
        return Compared(
            np.where(known, numerical, 0.0), np.where(known, apart, np.abs(ours)), np.where(known, off, np.inf)
        )

    def sides(self, index: HostArray, h: float) -> Sides:
        """Both sides of the elements `index` of the flat vector, with a step of h."""
        chunk = max(1, ROOM // (len(OFFSETS) * (self.flat.size + self.m * self.n * sum(self.network.layout.sizes))))
        parts = [self._sides(index[i : i + chunk], h) for i in range(0, len(index), chunk)]
        return Sides(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def _sides(self, index: HostArray, h: float) -> Sides:
        points = np.broadcast_to(self.flat.reshape(self.m, -1), (len(index), len(OFFSETS), self.m, self.flat.shape[-1]))
        points = points.copy()
        for i, element in enumerate(index):
            points[i, :, :, element] += h * np.array(OFFSETS)[:, None]
        losses = self._losses(points.reshape(-1, *self.flat.shape)).reshape(*points.shape[:3], self.n)
        with np.errstate(all="ignore"):
            # The steps as they are after rounding
            steps = np.abs(points[np.arange(len(index)), :, :, index] - points[np.arange(len(index)), :1, :, index])
            return self._from_losses(losses, steps[..., None], h)

    def _from_losses(self, losses: HostArray, steps: HostArray, h: float) -> Sides:
        now, up, down, up2, down2, up4, down4 = (losses[:, i] for i in range(len(OFFSETS)))
        one, two, four = (
            (above - below) / (steps[:, i] + steps[:, i + 1])
            for i, (above, below) in ((1, (up, down)), (3, (up2, down2)), (5, (up4, down4)))
        )
        middle, coarse = (4.0 * one - two) / 3.0, (4.0 * two - four) / 3.0
        right, right2 = (4.0 * up - up2 - 3.0 * now) / (2.0 * h), (4.0 * up2 - up4 - 3.0 * now) / (4.0 * h)
        left, left2 = (down2 + 3.0 * now - 4.0 * down) / (2.0 * h), (down4 + 3.0 * now - 4.0 * down2) / (4.0 * h)
        rounding = self._rounding(up2 - 4.0 * up + 6.0 * now - 4.0 * down + down2) / h
        of_right, of_left = np.abs(right - right2), np.abs(left - left2)
        jump = np.abs(right - left)
        standing = jump > of_right + of_left + 8.0 * rounding
        # 2 |..|: where the second derivative jumps, this is twice the error, elsewhere thirty times
        bound = 2.0 * np.abs(middle - coarse) + 0.5 * jump + 1.5 * rounding
        sides = Sides(middle, middle, bound)
        # Where one side crosses a kink the other one counts. A long step may cross one on both.
        for side, off in ((right, of_right), (left, of_left)) if h <= self.h else ():
            sides = sides.better(Sides(side, side, off + 4.0 * rounding))
        both = Sides(np.minimum(right, left), np.maximum(right, left), np.maximum(of_right, of_left) + 4.0 * rounding)
        low, high, bound = (np.where(standing, one, two) for one, two in zip(both, sides, strict=True))
        known = np.isfinite(low) & np.isfinite(high) & np.isfinite(bound)
        return Sides(np.where(known, low, 0.0), np.where(known, high, 0.0), np.where(known, bound, np.inf))

    def _rounding(self, fourth: HostArray) -> HostArray:
        # The fourth difference of five losses that are off by s is off by sqrt(70) s; the median knows no sample that
        # crosses a kink, and one that stands on a kink is left out.
        seen = np.median(np.abs(fourth), axis=0) / (0.67 * np.sqrt(70.0))
        seen = np.where(self.standing, 0.0, seen)
        return ROUNDINGS * np.maximum(self.roundings, np.where(np.isfinite(seen), seen, 0.0))

    def _roundings(self, draws: int = 4) -> HostArray:
        """The rounding of each loss that must be reckoned with, shape (m, batch)."""
        rng, now = np.random.default_rng(0), self._host(self.values).reshape(self.m, self.n)
        signs = rng.choice([-1.0, 1.0], (draws, *self.flat.shape))
        there = self._losses(self.flat * (1.0 + 2.0 * EPSILON * signs)).reshape(draws, self.m, self.n)
        with np.errstate(all="ignore"):
            moved = np.max(np.abs(there - now), axis=0)
            return np.maximum(EPSILON * np.abs(now), np.where(np.isfinite(moved), moved, 0.0))

    def _losses(self, points: HostArray) -> HostArray:
        """The loss of each sample at many flat vectors: shape (points, batch) or (points, m, batch)."""
        rows = all(checks.genuine(row, ACTIVATIONS) for row in self.network.activations)
        if self.flat.ndim == 1 and rows and checks.genuine(self.network.loss, LOSSES) and not self.network.members:
            return self._host(self._forward(points)[1])  # as many networks
        return np.stack([self._host(self._forward(point)[1]) for point in points])

    def _shares(self) -> HostArray:
        if self.w is None:
            return np.full(self.n, 1.0 / self.n)
        w = self._host(self.w)
        total = np.sum(w, axis=-1, keepdims=True)
        return np.where(total > 0.0, w / np.where(total > 0.0, total, 1.0), 0.0)

    @cached_property
    def noise(self) -> HostArray:
        """What rounding may have done to each derivative of ours."""
        return OURS * self.sensitivity()

    def _forward(self, flat: HostArray) -> tuple[Trace, Array]:
        trace = forward(self.network, self._parameters(flat), self.x)
        return trace, losses_of_samples(self.network, trace, self.y)

    def _backward(self, flat: HostArray, trace: Trace, y: Array, w: Array | None) -> HostArray:
        d = backward(self.network, self._parameters(flat), trace, y, w).d
        return self._host(self.network.layout.pack(d))

    def _parameters(self, flat: HostArray) -> Parameters:
        return self.network.layout.unpack(self.place.asarray(flat, "float64"))

    def _host(self, values: Array) -> HostArray:
        return np.asarray(self.place.backend.to_numpy(values))


def resolved(sizes: HostArray, bound: HostArray, scale: float) -> float:
    """What a difference must exceed to be seen, as if at the largest derivative: of the element that shows most.

    A derivative 1,000 times as large shows a factor of 1.001: twice what is unknown of it, and some room.
    """
    large = (sizes >= 1e-2 * scale) & np.isfinite(sizes)
    if scale == 0.0 or not np.any(large):
        return float(2.5 * np.max(bound))
    with np.errstate(all="ignore"):
        return float(2.5 * scale / np.max(sizes[large] / np.maximum(bound[large], np.finfo(float).tiny)))


def _a_multiple(ours: HostArray, numerical: HostArray, off: HostArray) -> bool:
    square = float(np.sum(numerical * numerical))
    if np.count_nonzero(numerical) < 2 or square == 0.0:
        return False
    c = float(np.sum(ours * numerical)) / square
    return bool(np.all(np.abs(ours - c * numerical) <= off + 1e-9 * np.max(np.abs(ours))))
