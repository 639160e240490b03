"""check_gradients: our derivatives beside numerical ones, parameter by parameter.

For an element w of W[k] or b[k], the central difference

    dL/dw  ~  (L(w + h) - L(w - h)) / 2h

costs two forward passes and knows nothing of the chain rule. Two refinements make it sharp:

- The losses of each sample are subtracted before they are averaged, so their rounding errors average out.
- Where a sample steps across a kink (a ReLU's z changes sign, an absolute error's yhat passes y), the difference of the
  side that does not cross is taken for that sample. A z of exactly 0 counts as z < 0, as in the derivatives here.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, place_of
from xpmlp.mlp import MLP
from xpmlp.network import Trace, backward, forward, losses, mean
from xpmlp.parameters import Segment

# Measured on NumPy, h = 4e-6: all 852 trios of activation, output and loss in the loss's domain, [3, 5, 4, 3] nets,
# batch 7, 20 seeds: right derivatives at most 1.1e-7. A derivative that is off by 0.1 % in two layers: 2e-3; off for
# z < 0 alone, at a slope of 0.01 (leaky ReLU): at least 3.8e-6.
TOLERANCE = 1e-6
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class GradientRow:
    """What was found for one W[k] or b[k]."""

    name: str  # "W" or "b"
    layer: int
    shape: tuple[int, ...]
    checked: int  # elements of each network that were compared
    ours: float  # largest |derivative|, of those compared
    numerical: float  # the same, of the differences
    difference: float  # the largest |ours - numerical|
    relative: (
        float  # that, as a share of the larger of the two above, or of resolution / tolerance where that is larger
    )
    where: tuple[int, ...]  # the index of the largest difference; the network first where there are several
    factor: float | None  # ours = factor * numerical, element by element; None where no factor fits to 0.1 %
    ok: bool
    undecided: bool  # too small a derivative to see an error of 0.1 % above rounding

    @property
    def label(self) -> str:
        """As in the notation: "W[2]"."""
        return f"{self.name}[{self.layer}]"

    @property
    def verdict(self) -> str:
        """One word or two for the table."""
        if not self.ok:
            return "WRONG"
        return "too small to tell" if self.undecided else "ok"

    def line(self) -> str:
        """Return the row as it stands in the table."""
        factor = "-" if self.factor is None else f"{self.factor:.5g}"
        return (
            f"d{self.label:<6}{self.ours:>13.4e}  {self.numerical:>11.4e}  {self.difference:>10.1e}"
            f"  {self.relative:>8.0e}  {factor:>8}  {self.verdict}"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found; true where every row is. Print it to read it."""

    rows: tuple[GradientRow, ...]
    loss: float  # L of the batch, the mean over the networks
    n_samples: int
    step: float
    tolerance: float
    resolution: float  # what rounding alone does to a difference

    @property
    def ok(self) -> bool:
        """Whether every parameter passed."""
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def worst(self) -> GradientRow:
        """The row with the largest relative difference, of those that failed if some did."""
        failed = [row for row in self.rows if not row.ok]
        return max(failed or self.rows, key=lambda row: math.inf if math.isnan(row.relative) else row.relative)

    def __getitem__(self, key: tuple[str, int]) -> GradientRow:
        for row in self.rows:
            if (row.name, row.layer) == key:
                return row
        raise KeyError(f"no row {key!r}; rows are {', '.join(row.label for row in self.rows)}, asked for as ('W', 1)")

    def __iter__(self) -> Iterator[GradientRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        wrong = [row for row in self.rows if not row.ok]
        named = "all" if len(wrong) == len(self.rows) else ", ".join(f"d{row.label}" for row in wrong)
        verdict = f"WRONG: {named}" if wrong else "all agree"
        lines = [
            f"Gradient check, {self.n_samples} samples, L = {self.loss:.6g}: {verdict}",
            "",
            "       largest |ours|  |numerical|  difference  relative     ratio",
        ]
        lines += [row.line() for row in self.rows]
        lines += [
            "",
            f"Central differences, step {self.step:g}. ok: relative <= {self.tolerance:g}."
            f" Below {self.resolution:.0e}: rounding.",
        ]
        for row in self.rows:
            if row.checked < math.prod(row.shape):
                lines.append(f"{row.label}: {row.checked} of {math.prod(row.shape)} elements, drawn at random.")
        if wrong:
            lines += textwrap.wrap(self.hint, 80)
        return "\n".join(lines)

    @property
    def hint(self) -> str:
        """Where to look first, if something is wrong."""
        wrong = [row for row in self.rows if not row.ok]
        if not wrong:
            return ""
        # What is wrong in dz[k] is wrong in every layer below it, so the fault is at or above the last wrong layer.
        row = max(wrong, key=lambda row: row.layer)
        hint = f"Look first at layer {row.layer}, the nearest to the loss that is wrong: d{row.label}"
        if math.isnan(row.difference) or math.isinf(row.difference):
            return f"{hint} is not finite."
        meanings = {
            -1.0: "its sign is wrong",
            2.0: "it is doubled",
            0.5: "it is halved",
            0.0: "it is zero",
            float(self.n_samples): "it is a sum over samples where L is their mean",
            1.0 / self.n_samples: "the mean over samples is taken twice",
        }
        for factor, meaning in meanings.items():
            if row.factor is not None and abs(row.factor - factor) <= 1e-3 * max(abs(factor), 1e-3):
                return f"{hint}: {meaning}."
        if row.factor is not None:
            return f"{hint} is {row.factor:.6g} times the numerical one."
        return f"{hint} is furthest off at [{', '.join(map(str, row.where))}]."


def check_gradients(
    net: MLP,
    X: Array,
    y: Array,
    sample_weight: Array | None = None,
    *,
    gradients: tuple[Sequence[Any], Sequence[Any]] | None = None,
    step: float = 4e-6,
    tolerance: float = TOLERANCE,
    elements: int = 100,
    random_state: int = 0,
) -> GradientReport:
    """Compare the derivatives of the loss with central differences, for every W and b.

    Use it on an activation or a loss of your own: pass the pair to `MLP`, and the net and a small batch (10 to 100
    samples) to this function. It reports and raises nothing on a mismatch. Dropout and penalties take no part.

    Parameters
    ----------
    net : MLP
        One network or several; a float32 network is checked in float64, since the formulas are in question, not the
        rounding.
    X, y, sample_weight : array
        As for `MLP.fit`.
    gradients : pair (dW, db), optional
        Derivatives from elsewhere, to be compared with the differences in place of ours: each a sequence of K arrays,
        or of K + 1 whose first is None, as `net.dW` is.
    step : float
        h. A larger one truncates more (as h^2), a smaller one rounds more (as 1/h).
    tolerance : float
        Of the largest difference, as a share of the largest derivative of the same W or b.
    elements : int
        Where a W or b holds more, so many elements of it are drawn at random and compared.
    random_state : int
        Seeds that draw.

    Returns
    -------
    GradientReport
        True where all agree. Its `repr` is a table: the largest derivative of each W and b, ours and numerical, their
        largest difference, and the factor between them where there is one: 2 points at a derivative that is doubled, -1
        at a sign, the batch size at a mean taken for a sum.

    Raises
    ------
    ValueError
        Where there is no float64 (JAX without x64, MPS), or if an argument does not fit.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> def f(z): return z * z
    >>> def derivative(z, a): return 2.002 * z  # off by a thousandth
    >>> net = xpmlp.MLP([2, 3, 1], activations=[(f, derivative), "identity"], random_state=0)
    >>> rng = np.random.default_rng(0)
    >>> report = xpmlp.check_gradients(net, rng.normal(size=(8, 2)), rng.normal(size=8))
    >>> report.ok, report.worst.label, round(report.worst.factor, 6)
    (False, 'W[1]', 1.001)
    """
    if not isinstance(net, MLP):
        raise TypeError(f"check_gradients needs an MLP; got {type(net).__name__}.")
    if not net.place.float64:
        raise ValueError(
            f"check_gradients needs float64, which {net.place} lacks. Check a copy: "
            "check_gradients(net.to_backend('numpy'), ...) with NumPy arrays."
        )
    h = checks.number(step, "step", above=0.0)
    tolerance = checks.number(tolerance, "tolerance", above=0.0)
    elements = checks.integer(elements, "elements", least=1)
    rng = np.random.default_rng(checks.integer(random_state, "random_state", least=0))

    problem = _Problem(net, X, y, sample_weight)
    ours = problem.derivatives() if gradients is None else _foreign(net, gradients)
    rows = []
    for segment in sorted(net.layout.segments, key=lambda segment: segment.layer):
        size = segment.stop - segment.start
        chosen = np.arange(size) if size <= elements else np.sort(rng.choice(size, elements, replace=False))
        index = segment.start + chosen
        numerical = np.stack([problem.difference(i, h) for i in index], axis=-1)
        rows.append(_row(segment, chosen, ours[..., index], numerical, tolerance, EPSILON * problem.size_of_loss / h))
    return GradientReport(tuple(rows), problem.loss, problem.n, h, tolerance, EPSILON * problem.size_of_loss / h)


class _Problem:
    """L as a function of the flat vector, in float64, for one batch."""

    def __init__(self, net: MLP, X: Array, y: Array, sample_weight: Array | None) -> None:
        xp, samples = net.place.xp, net._samples(X, y, sample_weight)

        def wide(x: Array) -> Array:
            return None if x is None else xp.astype(x, xp.float64, copy=False)

        self.network, self.place = net.network, net.place
        self.x, self.y, self.w = wide(samples.x), wide(samples.y), wide(samples.w)
        self.flat = net.place.backend.to_numpy(net.parameters).astype(np.float64)
        self.trace, self.values = self._forward(self.flat)
        self.n = samples.n
        self.loss = float(np.mean(self._host(mean(self.values, self.w))))
        self.size_of_loss = float(np.max(self._host(mean(xp.abs(self.values), self.w))))

    def derivatives(self) -> HostArray:
        """What `backward` says, as one flat vector."""
        layout = self.network.layout
        W, _ = layout.unpack(self.place.asarray(self.flat, "float64"))
        grads = backward(self.network, W, self.trace, self.y, self.w)
        return self._host(layout.pack(grads.dW, grads.db))

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
        stays_above, stays_below = self._same_side(trace_above), self._same_side(trace_below)
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
        W, b = self.network.layout.unpack(self.place.asarray(flat, "float64"))
        trace = forward(self.network, W, b, self.x)
        return trace, losses(self.network, trace, self.y)

    def _same_side(self, trace: Trace) -> Array:
        # Which samples are on the same side of every kink as without a step, shape (batch,) or (m, batch)
        xp = self.place.xp
        same = xp.ones_like(self.values, dtype=xp.bool)
        for now, then in zip(self._sides(trace), self._sides(self.trace), strict=True):
            same = xp.logical_and(same, xp.all(now == then, axis=-1))
        return same

    def _sides(self, trace: Trace) -> Iterator[Array]:
        for k, row in enumerate(self.network.activations, start=1):
            for kink in row.kinks:
                yield trace.z[k] > kink
        if self.network.loss.kinked:
            yield trace.a[-1] > self.y

    def _column(self, step: HostArray) -> Any:
        # () or (m,) to what divides losses of shape (batch,) or (m, batch)
        return float(step) if step.ndim == 0 else self.place.asarray(step[:, None], "float64")

    def _host(self, values: Array) -> HostArray:
        return np.asarray(self.place.backend.to_numpy(values))


def _foreign(net: MLP, gradients: Any) -> HostArray:
    if not isinstance(gradients, tuple) or len(gradients) != 2:
        raise TypeError(f"gradients must be a pair (dW, db) of sequences; got {type(gradients).__name__}.")
    K = net.layout.n_layers
    flat = np.zeros(tuple(net.parameters.shape))
    lead = flat.shape[:-1]
    for name, k, start, stop, shape in net.layout.segments:
        given = gradients[0 if name == "W" else 1]
        if len(given) == K + 1 and given[0] is None:
            given = given[1:]
        if len(given) != K:
            raise ValueError(f"gradients must hold d{name} for each of the {K} layers; got {len(given)}.")
        value = given[k - 1]
        if not isinstance(value, (list, tuple, float, int)):
            value = place_of(**{f"d{name}[{k}]": value}).backend.to_numpy(value)
        host = np.asarray(value, dtype=np.float64)
        fits = [(*lead, *shape)] + (
            [(*lead, 1, *shape)] if name == "b" else []
        )  # as db of m networks, or with keepdims
        if host.shape not in fits:
            raise ValueError(f"d{name}[{k}] must have shape {fits[0]}; got {host.shape}.")
        flat[..., start:stop] = host.reshape(*lead, stop - start)
    return flat


def _row(
    segment: Segment, chosen: HostArray, ours: HostArray, numerical: HostArray, tolerance: float, resolution: float
) -> GradientRow:
    apart = np.abs(ours - numerical)
    largest_ours, largest_numerical = float(np.max(np.abs(ours))), float(np.max(np.abs(numerical)))
    scale, difference = max(largest_ours, largest_numerical), float(np.max(apart))
    at = np.unravel_index(int(np.argmax(apart)), apart.shape)  # a NaN counts as the largest
    element = np.unravel_index(int(chosen[at[-1]]), segment.shape)
    relative = difference / max(scale, resolution / tolerance)
    return GradientRow(
        segment.name,
        segment.layer,
        segment.shape,
        len(chosen),
        largest_ours,
        largest_numerical,
        difference,
        relative=relative,
        where=tuple(int(i) for i in (*at[:-1], *element)),
        factor=_factor(ours, numerical),
        ok=relative <= tolerance,
        undecided=0.0 < 1e-3 * scale < resolution,
    )


def _factor(ours: HostArray, numerical: HostArray) -> float | None:
    # Least squares: the c that makes ours - c numerical smallest.
    square = float(np.sum(numerical * numerical))
    if square == 0.0:
        return None
    c = float(np.sum(ours * numerical)) / square
    left = float(np.max(np.abs(ours - c * numerical)))
    return c if left <= 1e-3 * float(np.max(np.abs(ours))) else None
