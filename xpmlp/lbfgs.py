"""L-BFGS on the flat vector, in whatever namespace it lives: few function calls, each on all the data.

Nocedal & Wright, Numerical Optimization (2nd ed.), algorithms 7.4 (two-loop recursion), 3.5 and 3.6 (strong Wolfe line
search). g is the gradient at p, d the direction, s = p_new - p, y = g_new - g, rho = 1 / (s . y).
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.runners.eager import Data
from xpmlp.runners.step import Task, gradient, total_weight

Function = Callable[[Array], tuple[Array, Array]]  # from p of shape (P,) to the loss, shape (), and its gradient

# The constants of the line search, as in L-BFGS-B: enough descent, and a slope that has flattened enough.
DESCENT, CURVATURE = 1e-3, 0.9
MEMORY = 10
LARGEST_STEP = 1e10
TRIALS = 20  # function calls of one line search
GAIN = 2.2e-9  # converged where an iteration gains no more than this share of the loss, as in L-BFGS-B


@dataclass(frozen=True)
class Minimum:
    """What `minimize` leaves."""

    p: Array
    loss: float
    n_iter: int
    n_fun: int
    stopped_by: str  # "gradient", "loss", "iterations", "calls", "line search", "callback" or "not finite"

    @property
    def converged(self) -> bool:
        """Whether there was nothing left to gain."""
        return self.stopped_by in ("gradient", "loss")


class _Point(NamedTuple):
    """A step length along the direction, with what was found there."""

    step: float
    loss: float
    slope: float  # d . g
    p: Array
    g: Array


def objective(task: Task, data: Data) -> Function:
    """The loss of all the data and its gradient, gathered batch by batch so that memory stays bounded."""
    whole = Task(task.network, task.optimizer)  # the penalty is added once, not by batch
    layout = task.network.layout

    def function(p: Array) -> tuple[Array, Array]:
        xp = array_namespace(p)
        loss: Any = 0.0
        g: Any = 0.0
        total: Any = 0.0
        for x, y, w in data.batches(None):
            weight = total_weight(x, w)
            part, slope = gradient(whole, p, x, y, w)
            loss, g, total = loss + part * weight, g + slope * weight, total + weight
        weights = p[: layout.n_weights]
        loss = (loss + 0.5 * task.l2 * xp.sum(weights * weights)) / total
        if task.l2 > 0.0:
            biases = xp.zeros((layout.size - layout.n_weights,), dtype=p.dtype, device=p.device)
            g = g + task.l2 * xp.concat([weights, biases])
        return loss, g / total

    return function


def minimize(
    function: Function,
    p: Array,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    on_iteration: Callable[[int, float, Array], bool] = lambda *_: False,
) -> Minimum:
    """Walk downhill from `p` until the gradient is flat, nothing is gained any more, or a limit is met.

    Parameters
    ----------
    function : function
        From parameters of shape (P,) to the loss, shape (), and its gradient, shape (P,).
    tol : float
        Converged where no element of the gradient is larger.
    max_iter, max_fun : int
        Limits to the iterations and to the calls of `function`.
    on_iteration : function
        Called with the number of the iteration, the loss and the parameters; True stops.

    Examples
    --------
    >>> import numpy as np
    >>> from xpmlp.lbfgs import minimize
    >>> bowl = lambda p: (np.sum((p - 3.0) ** 2), 2.0 * (p - 3.0))
    >>> minimize(bowl, np.zeros(2), max_iter=10, max_fun=20, tol=1e-8).p
    array([3., 3.])
    """
    xp = array_namespace(p)
    epsilon = float(xp.finfo(p.dtype).eps)
    calls = _Calls(function, max_fun)
    loss, g = calls(p)
    pairs: deque[tuple[Array, Array, Array]] = deque(maxlen=MEMORY)  # (s, y, rho)
    n_iter, stopped_by = 0, ""
    if not _is_finite(loss):
        stopped_by = "not finite"
    elif _largest(g) <= tol:
        stopped_by = "gradient"
    while not stopped_by:
        d = direction(g, pairs)
        start = _Point(0.0, loss, _dot(d, g), p, g)
        if not start.slope < 0.0:  # rounding has spoiled the memory: begin again from the gradient
            pairs.clear()
            d = -g
            start = start._replace(slope=_dot(d, g))
        first = 1.0 if pairs else min(1.0, 1.0 / max(_norm(g), epsilon))
        found = line_search(calls, start, d, first, epsilon)
        if found is None and pairs and calls.left:
            pairs.clear()
            continue
        if found is None:
            stopped_by = "line search" if calls.left else "calls"
            break
        n_iter += 1
        s, y = found.p - p, found.g - g
        curvature = _dot(s, y)
        if curvature > epsilon * _dot(y, y):
            pairs.append((s, y, xp.asarray(1.0 / curvature, dtype=p.dtype, device=p.device)))
        gained = loss - found.loss
        scale = max(abs(loss), abs(found.loss), 1.0)
        p, loss, g = found.p, found.loss, found.g
        if on_iteration(n_iter, loss, p):
            stopped_by = "callback"
        elif _largest(g) <= tol:
            stopped_by = "gradient"
        elif gained <= GAIN * scale:
            stopped_by = "loss"
        elif n_iter >= max_iter:
            stopped_by = "iterations"
        elif not calls.left:
            stopped_by = "calls"
    return Minimum(p, loss, n_iter, calls.n, stopped_by)


def direction(g: Array, pairs: "deque[tuple[Array, Array, Array]]") -> Array:
    """-H g, where H is the inverse Hessian that the last pairs (s, y) suggest; nothing is read from the device."""
    xp = array_namespace(g)
    q = -g
    shares = []
    for s, y, rho in reversed(pairs):
        a = rho * xp.sum(s * q)
        q = q - a * y
        shares.append(a)
    if pairs:
        s, y, rho = pairs[-1]
        q = q / (rho * xp.sum(y * y))  # gamma = (s . y) / (y . y), equation 7.20
    for (s, y, rho), a in zip(pairs, reversed(shares), strict=True):
        q = q + (a - rho * xp.sum(y * q)) * s
    return q


def line_search(calls: "_Calls", start: _Point, d: Array, first: float, epsilon: float) -> _Point | None:
    """A step along `d` after which the loss has fallen and the slope has flattened enough; None where none is found.

    Of the points tried the lowest is good enough where the Wolfe conditions cannot be met in TRIALS calls.
    """
    # What rounding makes of a loss that does not change: no reason to call a step worse.
    noise = epsilon * abs(start.loss)
    low, high = start, None  # a good step lies between them; without `high`, beyond `low`
    lowest, step = start, first
    for _ in range(TRIALS):
        if not calls.left:
            break
        p = start.p + step * d
        loss, g = calls(p)
        point, before = _Point(step, loss, _dot(d, g), p, g), low
        usable = _is_finite(point.loss) and _is_finite(point.slope)
        if usable and loss < lowest.loss:
            lowest = point
        enough = usable and loss <= start.loss + DESCENT * step * start.slope + noise
        if enough and abs(point.slope) <= -CURVATURE * start.slope:
            return point
        if not enough or loss > low.loss + noise:
            high = point
        else:
            if point.slope * (1.0 if high is None else high.step - low.step) >= 0.0:
                high = low
            low = point
        if high is None:
            step = min(_cubic(before, point, 1.1 * step, 4.0 * step), LARGEST_STEP)
            continue
        near, far = sorted((low.step, high.step))
        if far - near <= epsilon * far:
            break
        step = _cubic(low, high, near + 0.1 * (far - near), far - 0.1 * (far - near))
    return lowest if lowest is not start else None


def _cubic(a: _Point, b: _Point, least: float, most: float) -> float:
    """The minimum of the cubic through two points with their slopes (equation 3.59), inside [least, most]."""
    middle = 0.5 * (least + most)
    if not (_is_finite(b.loss) and _is_finite(b.slope)) or a.step == b.step:
        return middle
    d1 = a.slope + b.slope - 3.0 * (a.loss - b.loss) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if square < 0.0:
        return middle
    d2 = math.copysign(math.sqrt(square), b.step - a.step)
    below = b.slope - a.slope + 2.0 * d2
    if below == 0.0:
        return middle
    return min(max(b.step - (b.step - a.step) * (b.slope + d2 - d1) / below, least), most)


class _Calls:
    """The function, its calls counted, its loss as a Python float."""

    def __init__(self, function: Function, most: int) -> None:
        self.function, self.most, self.n = function, most, 0

    @property
    def left(self) -> int:
        return self.most - self.n

    def __call__(self, p: Array) -> tuple[float, Array]:
        self.n += 1
        loss, g = self.function(p)
        return float(loss), g


def _dot(a: Array, b: Array) -> float:
    return float(array_namespace(a).sum(a * b))


def _norm(g: Array) -> float:
    return math.sqrt(_dot(g, g))


def _largest(g: Array) -> float:
    xp = array_namespace(g)
    return float(xp.max(xp.abs(g)))


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
