"""L-BFGS on the flat vector, in whatever namespace it lives: few function calls, each on all the data.

The two-loop recursion is algorithm 7.4 of Nocedal & Wright, Numerical Optimization (2nd ed.): g is the gradient at p, d
the direction, s = p_new - p, y = g_new - g, rho = 1 / (s . y). The line search is that of More & Thuente, ACM Trans.
Math. Softw. 20 (1994), as in L-BFGS-B, so that the same problem takes the same iterations as with SciPy.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from array_api_compat import is_numpy_array

from xpmlp._typing import Array
from xpmlp.backends import array_namespace, device_of
from xpmlp.runners import TAKE_SPARSE, find_gradient
from xpmlp.runners.eager import Data
from xpmlp.runners.step import Part, Reduction, State, Task, of_each, total_weight

Gradient = Callable[[Array, Array, Array, Array | None], tuple[Array, Array]]  # of a batch: see `find_gradient`
Function = Callable[[Array], tuple[Array, Array]]  # from p of shape (P,) to the loss, shape (), and its gradient

# The constants of the line search, as in L-BFGS-B: enough descent, a slope that has flattened enough (the strong Wolfe
# conditions), and an interval so narrow that it is no use to go on.
DESCENT, CURVATURE, NARROW = 1e-3, 0.9, 0.1
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
    """A step along the direction, and what was found there."""

    step: float
    loss: float
    slope: float  # d . g

    def tilted(self, slope: float) -> "_Point":
        """The same for the function from which a straight line of this slope has been taken away."""
        return _Point(self.step, self.loss - self.step * slope, self.slope - slope)


def objective(task: Task, data: Data) -> Function:
    """The loss of all the data and its gradient, gathered batch by batch so that memory stays bounded."""
    whole = Task(task.network, task.optimizer)  # the penalty is added once, not by batch
    gradient = find_gradient(whole, data)
    layout = task.network.layout
    pull: list[Array] = []  # of the penalty: l2 for weights and 0 for biases, once there is a p that it is like

    def function(p: Array) -> tuple[Array, Array]:
        if task.reduce is None:
            loss, g, total = _sums(gradient, p, data)
        else:
            loss, g, total = _sums_of_parts(gradient, p, data, task.reduce)
        weights = p[: layout.decaying_stop]
        loss = (loss + 0.5 * task.l2 * _product(p)(weights, weights)) / total
        if task.l2 > 0.0:
            if not pull:
                pull.append(task.l2 * layout.fill(lambda segment: segment.decays, p))
            g += p * pull[0]
        g /= total
        return loss, g

    return function


def _sums(gradient: Gradient, p: Array, data: Data) -> tuple[Any, Any, Any]:
    """The loss, its gradient and the weights, summed over all samples."""
    loss: Any = 0.0
    g: Any = None
    total: Any = 0.0
    for x, y, w in data.batches(None, sparse=data.place.backend.runner in TAKE_SPARSE):
        weight = total_weight(x, w)
        part, slope = gradient(p, x, y, w)
        loss, total = loss + part * weight, total + weight
        if g is None:
            g = slope * weight
        else:
            g += slope * weight
    return loss, g, total


def _sums_of_parts(gradient: Gradient, p: Array, data: Data, reduce: Reduction) -> tuple[Any, Any, Any]:
    """The same over those of all processes: each sums over its lanes, and there is one sum of these."""
    sums: dict[int, tuple[Part, Any, Any, Any]] = {}
    for x, y, w in data.batches(None):
        for part in reduce.parts(int(x.shape[-2])):
            some = x[part.rows, :], y[part.rows, :], None if w is None else w[part.rows]
            weight = total_weight(some[0], some[2])
            mean, slope = gradient(p, *some)
            _, loss, g, total = sums.get(part.lane, (part, 0.0, 0.0, 0.0))
            sums[part.lane] = part, loss + mean * weight, g + slope * weight, total + weight
    for part, loss, g, total in sums.values():
        each = of_each(total)
        reduce.add(part, g * each, loss * each, total)
    g, loss, total = reduce.total(array_namespace(p).zeros_like(p))
    return loss * total, g * total, total


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
    on_iteration : function
        Called with the number of the iteration, the loss and the parameters; True stops.

    Examples
    --------
    >>> import numpy as np
    >>> from xpmlp.runners.lbfgs import minimize
    >>> bowl = lambda p: (np.sum((p - 3.0) ** 2), 2.0 * (p - 3.0))
    >>> minimize(bowl, np.zeros(2), max_iter=10, max_fun=20, tol=1e-8).p
    array([3., 3.])
    """
    runner, state, n_iter = Runner(function, max_fun=max_fun, tol=tol), State(p, (), 0), 0
    while not (stopped_by := runner.finished(state)):
        state, _ = runner.epoch(state)
        n_iter += 1
        if on_iteration(n_iter, runner.loss, state.p):
            stopped_by = "callback"
            break
        if n_iter >= max_iter:
            stopped_by = "iterations"
            break
    return Minimum(state.p, runner.loss, n_iter, runner.calls.n, stopped_by)


class Runner:
    """L-BFGS as a runner: an epoch is an iteration, and a step looks at all the data.

    Its slots are the gradient and the pairs, (g, s_1 ... s_n, y_1 ... y_n); t counts the calls of the function.
    """

    name = "lbfgs"
    reason = ""

    def __init__(self, function: Function, *, max_fun: int, tol: float) -> None:
        self.calls, self.tol = _Calls(function, max_fun), tol
        self.pairs: deque[tuple[Array, Array, Array]] = deque(maxlen=MEMORY)
        self.p: Array = None  # where it stands
        self.g: Array = None
        self.loss = float("nan")
        self.gained = float("inf")  # by the last iteration, as a share of the loss
        self.next: tuple[float, float, Array, Array] | None = None  # where it goes: the step, the loss, p, g

    def finished(self, state: State) -> str:
        """Why there is no iteration to be made from here; "" where there is, and then it is known where it leads."""
        if state.p is not self.p:
            self._take_up(state)
        if not _is_finite(self.loss):
            return "not finite"
        if self.calls.spent and state.slots:
            return "calls"
        if _largest(self.g) <= self.tol:
            return "gradient"
        if self.gained <= GAIN:
            return "loss"
        if self.next is None:
            self.next = self._search()
        return "" if self.next is not None else "calls" if self.calls.spent else "line search"

    def epoch(self, state: State, *_: object) -> tuple[State, Array]:  # noqa: ARG002 - `finished` has taken it up
        """One iteration, and the loss after it."""
        assert self.next is not None  # `finished` has been asked
        (step, loss, p, g), self.next = self.next, None
        s, y = p - self.p, g - self.g
        if _dot(s, y) > -self.epsilon * step * self.slope:
            self.pairs.append(_pair(s, y))
        self.gained = (self.loss - loss) / max(abs(self.loss), abs(loss), 1.0)
        self.p, self.loss, self.g = p, loss, g
        slots = (g, *(s for s, _, _ in self.pairs), *(y for _, y, _ in self.pairs))
        return State(p, slots, self.calls.n), array_namespace(p).asarray(loss, dtype=p.dtype, device=device_of(p))

    def _take_up(self, state: State) -> None:
        n = len(state.slots) // 2
        self.epsilon = float(array_namespace(state.p).finfo(state.p.dtype).eps)
        self.pairs.extend(_pair(s, y) for s, y in zip(state.slots[1 : n + 1], state.slots[n + 1 :], strict=True))
        self.p, (self.loss, self.g) = state.p, self.calls(state.p)
        self.calls.n = state.t or self.calls.n  # what was known then need not be counted again

    def _search(self) -> tuple[float, float, Array, Array] | None:
        while True:
            d = direction(self.g, self.pairs)
            self.slope = _dot(d, self.g)
            known = self.pairs or self.gained < float("inf")
            first = 1.0 if known else 1.0 / max(math.sqrt(_dot(d, d)), self.epsilon)
            start = _Point(0.0, self.loss, self.slope)
            found = line_search(self.calls, self.p, d, start, first) if self.slope < 0.0 else None
            if found is not None or not self.pairs or self.calls.spent:
                return found
            self.pairs.clear()  # rounding has spoiled the memory: begin again from the gradient


def _pair(s: Array, y: Array) -> tuple[Array, Array, Array]:
    return s, y, _number(1.0 / _dot(s, y), s)


def _number(value: float, like: Array) -> Array:
    if is_numpy_array(like):
        return like.dtype.type(value)  # no array of NumPy's, whose products take five times as long
    return array_namespace(like).asarray(value, dtype=like.dtype, device=device_of(like))


def direction(g: Array, pairs: "deque[tuple[Array, Array, Array]]") -> Array:
    """-H g, where H is the inverse Hessian that the last pairs (s, y) suggest; nothing is read from the device."""
    dot = _product(g)
    q = -g
    shares = []
    for s, y, rho in reversed(pairs):
        a = rho * dot(s, q)
        q -= a * y
        shares.append(a)
    if pairs:
        s, y, rho = pairs[-1]
        q /= rho * dot(y, y)  # gamma = (s . y) / (y . y), equation 7.20
    for (s, y, rho), a in zip(pairs, reversed(shares), strict=True):
        q += (a - rho * dot(y, q)) * s
    return q


def line_search(
    calls: "_Calls", p: Array, d: Array, start: _Point, first: float
) -> tuple[float, float, Array, Array] | None:
    """A step along `d` that meets the strong Wolfe conditions, with the loss, the parameters and the gradient there.

    Where rounding or TRIALS end the search first: the lowest point met, or None if none is lower than the start.
    """
    line = DESCENT * start.slope  # the slope that the loss must fall with, at least
    low, other = start, start  # the best step so far, and the other end of the interval once there is one
    bracketed, past_valley = False, False
    width, width_before = LARGEST_STEP, 2.0 * LARGEST_STEP
    least, most, step = 0.0, 5.0 * first, first
    lowest: tuple[float, float, Array, Array] | None = None
    for _ in range(TRIALS):
        if calls.spent:
            break
        there = p + step * d
        loss, g = calls(there)
        point = _Point(step, loss, _dot(d, g))
        if not (_is_finite(loss) and _is_finite(point.slope)):
            most, step = step, 0.5 * (low.step + step)  # too far: not a place to learn anything from but that
            continue
        if loss < (start.loss if lowest is None else lowest[1]):
            lowest = (step, loss, there, g)
        enough = loss <= start.loss + step * line
        if enough and abs(point.slope) <= -CURVATURE * start.slope:
            return step, loss, there, g
        past_valley = past_valley or (enough and point.slope >= 0.0)
        if bracketed and _is_narrow(step, least, most):
            break
        if not past_valley and loss <= low.loss and not enough:
            # Before the valley is reached the search is for a minimum of the loss less the line.
            known = (low.tilted(line), other.tilted(line), point.tilted(line))
        else:
            known = (low, other, point)
        try:
            new, bracketed = _next_step(*known, bracketed, least, most)
        except ZeroDivisionError:  # flat ground: nothing to interpolate
            break
        low, other = _interval(low, other, point)
        if bracketed:
            if abs(other.step - low.step) >= 0.66 * width_before:
                new = low.step + 0.5 * (other.step - low.step)
            width_before, width = width, abs(other.step - low.step)
            least, most = sorted((low.step, other.step))
        else:
            least, most = new + 1.1 * (new - low.step), new + 4.0 * (new - low.step)
        step = min(max(new, 0.0), LARGEST_STEP)
        step = low.step if bracketed and _is_narrow(step, least, most) else step
    return lowest


def _is_narrow(step: float, least: float, most: float) -> bool:
    """Whether there is no room left for another step."""
    return step <= least or step >= most or most - least <= NARROW * most


def _interval(low: _Point, other: _Point, point: _Point) -> tuple[_Point, _Point]:
    """The ends of the interval after `point` has been tried, the better one first."""
    if point.loss > low.loss:
        return low, point
    return point, (low if point.slope * low.slope < 0.0 else other)


def _next_step(
    low: _Point, other: _Point, point: _Point, bracketed: bool, least: float, most: float
) -> tuple[float, bool]:
    """The step to try next, from cubics and parabolas through the points known (More & Thuente, section 4)."""
    if point.loss > low.loss:  # case 1: a minimum lies between
        cubic = _cubic(low, point)
        chord = (low.loss - point.loss) / (point.step - low.step) + low.slope
        parabola = low.step + 0.5 * low.slope / chord * (point.step - low.step)
        near = abs(cubic - low.step) < abs(parabola - low.step)
        return (cubic if near else 0.5 * (cubic + parabola)), True
    if point.slope * low.slope < 0.0:  # case 2: between, too
        cubic, secant = _cubic(point, low), _secant(point, low)
        return (cubic if abs(cubic - point.step) > abs(secant - point.step) else secant), True
    if abs(point.slope) < abs(low.slope):  # case 3: the slope flattens; go on, perhaps far
        cubic, secant = _cubic_beyond(point, low, least, most), _secant(point, low)
        nearer = abs(cubic - point.step) < abs(secant - point.step)
        if bracketed:
            new, wall = (cubic if nearer else secant), point.step + 0.66 * (other.step - point.step)
            return (min(wall, new) if point.step > low.step else max(wall, new)), True
        return min(max(secant if nearer else cubic, least), most), False
    if bracketed:  # case 4: it steepens
        return _cubic(point, other), True
    return (most if point.step > low.step else least), False


def _secant(a: _Point, b: _Point) -> float:
    """Where the straight line through the slopes of two points is 0."""
    return a.step + a.slope / (a.slope - b.slope) * (b.step - a.step)


def _cubic(a: _Point, b: _Point) -> float:
    """The minimum of the cubic through two points with their slopes."""
    theta, gamma = _coefficients(a, b)
    return a.step + (gamma - a.slope + theta) / (gamma - a.slope + gamma + b.slope) * (b.step - a.step)


def _cubic_beyond(a: _Point, b: _Point, least: float, most: float) -> float:
    """The same where it lies beyond `a`, seen from `b`; else as far as one may go."""
    theta, gamma = _coefficients(a, b)
    r = (gamma - a.slope + theta) / ((gamma + (b.slope - a.slope)) + gamma)
    if r < 0.0 and gamma != 0.0:
        return a.step + r * (b.step - a.step)
    return most if a.step > b.step else least


def _coefficients(a: _Point, b: _Point) -> tuple[float, float]:
    theta = 3.0 * (a.loss - b.loss) / (b.step - a.step) + a.slope + b.slope
    s = max(abs(theta), abs(a.slope), abs(b.slope))
    gamma = s * math.sqrt(max(0.0, (theta / s) ** 2 - a.slope / s * (b.slope / s)))
    return theta, gamma if b.step > a.step else -gamma


class _Calls:
    """The function, its calls counted, its loss as a Python float."""

    def __init__(self, function: Function, most: int) -> None:
        self.function, self.most, self.n = function, most, 0

    @property
    def spent(self) -> bool:
        # As SciPy counts: the one call too many is made.
        return self.n > self.most

    def __call__(self, p: Array) -> tuple[float, Array]:
        self.n += 1
        loss, g = self.function(p)
        return float(loss), g


def _dot(a: Array, b: Array) -> float:
    return float(_product(a)(a, b))


def _product(like: Array) -> Callable[[Array, Array], Array]:
    """What multiplies two vectors, with no array as large as they are; NumPy's own is called in less time."""
    return (lambda a, b: a.dot(b)) if is_numpy_array(like) else array_namespace(like).matmul


def _largest(g: Array) -> float:
    return float(abs(g).max() if is_numpy_array(g) else array_namespace(g).max(abs(g)))


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")
