"""check_gradients: our derivatives beside numerical ones, parameter by parameter."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray, at_home, place_of
from xpmlp.inspection.differences import Compared, LossSurface, resolved
from xpmlp.inspection.models import open_up, place_of_model
from xpmlp.inspection.precise import Precise
from xpmlp.inspection.report import GradientReport, GradientRow
from xpmlp.inspection.slips import factor_between, slip_in
from xpmlp.mlp import MLP
from xpmlp.network.parameters import Layout, Segment

# Measured on NumPy, h = 4e-6: all 852 trios of activation, output and loss in the loss's domain, [3, 5, 4, 3] nets,
# batch 7, 20 seeds: right derivatives at most 1.1e-7. A derivative that is off by 0.1 % in two layers: 2e-3; off for
# z < 0 alone, at a slope of 0.01 (leaky ReLU): at least 3.8e-6.
TOLERANCE = 1e-6
# 233 of the trios, drawn at random, to 30 digits: half of them at most 3.2e-16, all 9.2e-16.
PRECISE_TOLERANCE = 1e-12
TINY = float(np.finfo(np.float64).tiny)  # where nothing depends on a parameter, 0 / 0 is agreement


@at_home("checking gradients", of=place_of_model)
def check_gradients(
    net: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    digits: int | None = None,
    gradients: tuple[Any, ...] | None = None,
    step: float = 4e-6,
    tolerance: float | None = None,
    elements: int = 100,
    random_state: int = 0,
) -> GradientReport:
    """Compare the derivatives of the loss with central differences, for every W, b and array of a part.

    Use it on an activation or a loss of your own: pass the pair to `MLP`, and the net and a small batch (10 to 100
    samples) to this function. It reports and raises nothing on a mismatch. Dropout and penalties take no part.

    Parameters
    ----------
    net : MLP, or fitted estimator
        One network or several, parts and members; float32 is checked in float64, since the formulas are in question,
        not the rounding.
    X, y, sample_weight : array
        As for its `fit`: of a classifier, y holds labels.
    digits : int, optional
        Compute the numerical derivatives to so many digits, 20 or more, with mpmath's numbers (needs mparray: the extra
        `precision`). They are then without error beside ours, and what is left is the rounding of ours: 1e-15 or so.
        For small networks: each product takes 10 microseconds. `step` is not used.
    gradients : pair (dW, db), or (dW, db, others), optional
        Derivatives from elsewhere, to be compared with the differences in place of ours: each a sequence of K arrays,
        or of K + 1 whose first is None, as `net.dW` is. `others`, of parts, is a dict of arrays by the names that the
        report has, as in {"layer_norm.gain[1]": ...}; those that it lacks are ours.
    step : float
        h. A larger one truncates more, a smaller one rounds more (as 1/h). Both are measured; where h resolves too
        little, 32 h, 1024 h and h / 32 are tried, too.
    tolerance : float, optional
        Of the largest difference, as a share of the largest derivative of the same array: 1e-6 where nothing is said,
        and 1e-12 with `digits`.
    elements : int
        Where an array holds more, so many elements of it are drawn at random and compared.
    random_state : int
        Seeds that draw.

    Returns
    -------
    GradientReport
        True where all agree. Its `repr` is a table: the largest derivative of each array, ours and numerical, their
        largest difference, and the factor between them where there is one: 2 points at a derivative that is doubled, -1
        at a sign, the batch size at a mean taken for a sum. A row whose derivatives are less than 1,000 times what can
        be resolved is called "too small to tell". `on_kinks` samples stand on a kink, where a derivative between its
        two sides is right.

    Raises
    ------
    ImportError
        If `digits` is given and mparray is not installed.
    TypeError
        If `net` is no model of xpmlp, or a function of your own does not take arrays of another namespace (`digits`).
    ValueError
        Where there is no float64 (JAX without x64, MPS), if an estimator was not fitted, if the check would take too
        long (`digits`), or if an argument does not fit.

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

    Where the numerical derivatives have 50 digits, a part in a thousand million shows:

    >>> def derivative(z, a): return (2 + 2e-9) * z
    >>> net = xpmlp.MLP([2, 3, 1], activations=[(f, derivative), "identity"], random_state=0)
    >>> X, y = rng.normal(size=(8, 2)), rng.normal(size=8)
    >>> xpmlp.check_gradients(net, X, y).ok, xpmlp.check_gradients(net, X, y, digits=50).ok
    (True, False)
    """
    opened = open_up(net)
    if not opened.place.float64:
        cure = (
            "Check a copy: check_gradients(net.to_backend('numpy'), ...)"
            if isinstance(net, MLP)
            else ("Check one that was fitted with backend='numpy',")
        )
        raise ValueError(f"check_gradients needs float64, which {opened.place} lacks. {cure} with NumPy arrays.")
    h = checks.number(step, "step", above=0.0)
    usual = TOLERANCE if digits is None else PRECISE_TOLERANCE
    tolerance = usual if tolerance is None else checks.number(tolerance, "tolerance", above=0.0)
    elements = checks.integer(elements, "elements", least=1)
    rng = np.random.default_rng(checks.integer(random_state, "random_state", least=0))

    surface = LossSurface(net, X, y, sample_weight)
    layout, ours = surface.network.layout, surface.derivatives()
    if gradients is not None:
        ours = _foreign(layout, ours, gradients)
    chosen = {segment: _chosen(segment, elements, rng) for segment in sorted(layout.segments, key=lambda it: it.layer)}
    precise = None
    if digits is not None:
        passes = sum(map(len, chosen.values()))
        precise = Precise(surface, checks.integer(digits, "digits", least=20), passes)
    rows = []
    for segment, elements_of_it in chosen.items():
        index = segment.start + elements_of_it
        mine = ours[..., index]
        compared = surface.compare(index, mine, h, tolerance) if precise is None else precise.compare(index, mine)
        row = _row(segment, elements_of_it, mine, compared, tolerance)
        if gradients is not None and not row.ok and row.factor is None:
            row = replace(row, slip=slip_in(surface, segment, mine, elements_of_it))
        rows.append(row)
    resolution = max(row.resolution for row in rows)
    return GradientReport(tuple(rows), surface.loss, surface.n, h, tolerance, resolution, digits, surface.on_kinks)


def _chosen(segment: Segment, elements: int, rng: np.random.Generator) -> HostArray:
    size = segment.stop - segment.start
    return np.arange(size) if size <= elements else np.sort(rng.choice(size, elements, replace=False))


def _foreign(layout: Layout, ours: HostArray, gradients: Any) -> HostArray:
    if not isinstance(gradients, tuple) or len(gradients) not in (2, 3):
        raise TypeError(
            "gradients must be a pair (dW, db) of sequences, or (dW, db, others) with those of parts in a dict; "
            f"got {type(gradients).__name__}."
        )
    others: Mapping[str, Any] = gradients[2] if len(gradients) == 3 else {}
    names = [f"{segment.name}[{segment.layer}]" for segment in layout.segments if segment.name not in ("W", "b")]
    if unknown := sorted(set(others) - set(names)):
        raise ValueError(f"this network has no {unknown[0]!r}; beside W and b it has {', '.join(names) or 'nothing'}.")
    K, lead = layout.n_layers, ours.shape[:-1]
    flat = ours.copy()
    for name, k, start, stop, shape, _ in layout.segments:
        if name in ("W", "b"):
            given = gradients[0 if name == "W" else 1]
            if len(given) == K + 1 and given[0] is None:
                given = given[1:]
            if len(given) != K:
                raise ValueError(f"gradients must hold d{name} for each of the {K} layers; got {len(given)}.")
            value = given[k - 1]
        elif f"{name}[{k}]" in others:
            value = others[f"{name}[{k}]"]
        else:
            continue
        if not isinstance(value, (list, tuple, float, int)):
            value = place_of(**{f"d{name}[{k}]": value}).backend.to_numpy(value)
        host = np.asarray(value, dtype=np.float64)
        # As db of m networks, or with keepdims
        fits = [(*lead, *shape)] + ([(*lead, 1, *shape)] if len(shape) == 1 else [])
        if host.shape not in fits:
            raise ValueError(f"d{name}[{k}] must have shape {fits[0]}; got {host.shape}.")
        flat[..., start:stop] = host.reshape(*lead, stop - start)
    return flat


def _row(segment: Segment, chosen: HostArray, ours: HostArray, compared: Compared, tolerance: float) -> GradientRow:
    numerical, apart, bound, shown = compared
    largest_ours, largest_numerical = float(np.max(np.abs(ours))), float(np.max(np.abs(numerical)))
    sizes = np.maximum(np.abs(ours), np.abs(numerical))
    scale = float(np.max(np.where(np.isfinite(sizes), sizes, 0.0)))
    # What is not a number is wrong, unless there is none to compare it with (a loss that overflows).
    apart = np.where(np.isnan(apart), np.inf, apart)
    relatives = np.where(np.isfinite(bound), apart / np.maximum(scale, np.maximum(bound / tolerance, TINY)), 0.0)
    # Of those that are as far off as the furthest, the one with the largest difference
    furthest = relatives >= np.max(relatives)
    at = np.unravel_index(int(np.argmax(np.where(furthest, apart, -1.0))), apart.shape)
    element = np.unravel_index(int(chosen[at[-1]]), segment.shape)
    relative, resolution = float(relatives[at]), resolved(sizes, bound, scale)
    return GradientRow(
        segment.name,
        segment.layer,
        segment.shape,
        len(chosen),
        largest_ours,
        largest_numerical,
        float(apart[at]),
        relative=relative,
        where=tuple(int(i) for i in (*at[:-1], *element)),
        factor=factor_between(ours, numerical),
        ok=relative <= tolerance,
        undecided=0.0 < 1e-3 * scale < resolution or bool(np.any(np.isinf(bound) & (sizes != 0.0))),
        resolution=resolution,
        ours_there=float(ours[at]),
        digits_there=shown,
    )
