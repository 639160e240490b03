"""L-BFGS: as good as SciPy's, in any namespace, within its limits."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from xpmlp import MLP
from xpmlp.backends import select
from xpmlp.network import Network
from xpmlp.network.activations import activation
from xpmlp.network.losses import loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import Data, Task, lbfgs
from xpmlp.runners.lbfgs import minimize, objective
from xpmlp.runners.step import State
from xpmlp.training.evaluation import even_blocks, rows_at_once

LIMITS = {"max_iter": 500, "max_fun": 1000, "tol": 1e-8}
START = np.array([-1.2, 1.0] * 5)


def valley(p):
    return rosen(p), rosen_der(p)


def test_the_valley_of_rosenbrock_takes_the_iterations_that_scipy_takes():
    found = minimize(valley, START, **LIMITS)
    theirs = scipy_minimize(valley, START, jac=True, method="L-BFGS-B", options={"gtol": 1e-8})
    assert (found.n_iter, found.n_fun) == (theirs.nit, theirs.nfev)
    assert found.loss < 1e-9
    np.testing.assert_allclose(found.p, 1.0, atol=1e-4)


def beale(p):
    x, y = p
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    dx = 2.0 * (a * (y - 1.0) + b * (y**2 - 1.0) + c * (y**3 - 1.0))
    return a * a + b * b + c * c, np.array([dx, 2.0 * x * (a + 2.0 * b * y + 3.0 * c * y**2)])


def powell(p):
    x, y, z, w = p
    a, b, c, d = x + 10.0 * y, z - w, y - 2.0 * z, x - w
    g = [2 * a + 40 * d**3, 20 * a + 4 * c**3, 10 * b - 8 * c**3, -10 * b - 40 * d**3]
    return a**2 + 5.0 * b**2 + c**4 + 10.0 * d**4, np.array(g)


def brown(p):  # badly scaled: the minimum lies at (1e6, 2e-6)
    x, y = p
    a, b, c = x - 1e6, y - 2e-6, x * y - 2.0
    return a * a + b * b + c * c, np.array([2.0 * (a + c * y), 2.0 * (b + c * x)])


def rippled(beta, ripples):
    """|1 - x|, rounded within beta of its kink, with sines on it: More & Thuente, equation 5.3."""
    size, pace = 2.0 * (1.0 - beta) / (ripples * math.pi), 0.5 * ripples * math.pi

    def function(p):
        x = float(p[0])
        apart = abs(x - 1.0)
        value, slope = (
            (apart, math.copysign(1.0, x - 1.0)) if apart > beta else ((apart**2 / beta + beta) / 2.0, (x - 1.0) / beta)
        )
        return value + size * math.sin(pace * x), np.array([slope + size * pace * math.cos(pace * x)])

    return function


def two_bends(beta_1, beta_2):
    """Straight but near 0 and 1, where it bends as sharply as it is told: More & Thuente, equation 5.4."""
    first, second = (math.sqrt(1.0 + beta**2) - beta for beta in (beta_1, beta_2))

    def function(p):
        x = float(p[0])
        one, other = math.hypot(1.0 - x, beta_2), math.hypot(x, beta_1)
        return first * one + second * other, np.array([second * x / other - first * (1.0 - x) / one])

    return function


@pytest.mark.parametrize(
    "function, start",
    [
        (beale, [1.0, 1.0]),
        (powell, [3.0, -1.0, 0.0, 1.0]),
        (brown, [1.0, 1.0]),
        # A step that ends with a negative curvature must not be remembered.
        (rippled(0.001, 7), [0.3]),
        (rippled(0.001, 39), [-1.0]),
        # An interval that shrinks too slowly is cut in half.
        (rippled(0.001, 15), [-3.0]),
        # A step that goes on may take two thirds of the interval, not more.
        (rippled(0.1, 15), [0.3]),
        (two_bends(0.01, 0.001), [0.9]),
        (two_bends(0.001, 0.01), [0.2]),
    ],
    ids=["beale", "powell", "brown", *(f"rippled-{i}" for i in range(4)), *(f"two-bends-{i}" for i in range(2))],
)
def test_crooked_valleys_take_the_iterations_that_scipy_takes(function, start):
    found = minimize(function, np.array(start), **LIMITS)
    theirs = scipy_minimize(function, np.array(start), jac=True, method="L-BFGS-B", options={"gtol": 1e-8})
    assert (found.n_iter, found.n_fun) == (theirs.nit, theirs.nfev)
    # Measured: equal to all digits but those that the order of a sum decides.
    np.testing.assert_allclose(found.p, theirs.x, rtol=1e-6, atol=1e-6)


def test_a_line_search_that_ignores_the_slope_is_not_as_good(monkeypatch):
    # The test above is tested: halving until the loss falls is no line search for a curved valley.
    def halving(calls, p, d, start, first):
        step = first
        while not calls.spent:
            value, g = calls(p + step * d)
            if value < start.loss:
                return step, value, p + step * d, g
            step *= 0.5
        return None

    monkeypatch.setattr(lbfgs, "line_search", halving)
    with pytest.raises(AssertionError):
        test_the_valley_of_rosenbrock_takes_the_iterations_that_scipy_takes()


def bowl(backend, dtype):
    xp = backend.xp
    curvature = backend.put(np.linspace(1.0, 50.0, 20), dtype)
    target = backend.put(np.linspace(-1.0, 1.0, 20), dtype)

    def function(p):
        r = p - target
        return 0.5 * xp.sum(curvature * r * r), curvature * r

    return function, target


def test_every_backend_finds_the_bottom_of_a_bowl(backend):
    for dtype in backend.dtypes:
        function, target = bowl(backend, dtype)
        found = minimize(function, backend.xp.zeros_like(target), max_iter=200, max_fun=400, tol=1e-5)
        assert found.converged
        backend.assert_close(found.p, backend.get(target), atol=1e-4)


def network_problem(backend, dtype, rows, w=None, l2=0.1):
    rng = np.random.default_rng(0)
    layout = Layout((3, 4, 2))
    network = Network(layout, (activation("tanh"), activation("softmax")), loss("cross_entropy"))
    x, y = rng.normal(size=(30, 3)), np.eye(2)[rng.integers(0, 2, 30)]
    w = None if w is None else backend.put(w, dtype)
    data = Data(backend.place, backend.put(x, dtype), backend.put(y, dtype), w, rows)
    p = backend.put(rng.normal(size=layout.size), dtype)
    return objective(Task(network, optimizer("sgd"), l2=l2), data), p


@pytest.mark.parametrize("weights", [None, np.repeat([0.0, 1.0, 3.0], 10)], ids=["plain", "weighted"])
def test_the_objective_is_the_same_in_one_piece_and_in_blocks(backend, weights):
    dtype = backend.dtypes[0]
    whole, p = network_problem(backend, dtype, 30, weights)
    # Of ten rows each: the first block of the weighted problem weighs nothing.
    parts, _ = network_problem(backend, dtype, 10, weights)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    backend.assert_close(parts(p)[0], backend.get(whole(p)[0]), rtol=tolerance)
    backend.assert_close(parts(p)[1], backend.get(whole(p)[1]), rtol=tolerance)


def test_the_gradient_of_the_objective_agrees_with_differences():
    from xpmlp.backends import select

    class Here:
        place = select("numpy")
        dtypes = ("float64",)

        @staticmethod
        def put(values, dtype=None):
            return np.array(values, dtype=dtype)

    function, p = network_problem(Here, "float64", 30, np.linspace(0.0, 1.0, 30))
    h = 1e-6
    numeric = [(function(p + h * e)[0] - function(p - h * e)[0]) / (2 * h) for e in np.eye(p.size)]
    np.testing.assert_allclose(function(p)[1], numeric, atol=1e-8)


@pytest.mark.parametrize(
    ("limits", "stopped_by"),
    [
        ({"max_iter": 3}, "iterations"),
        ({"max_fun": 4}, "calls"),
        ({"tol": 1e9}, "gradient"),
    ],
)
def test_it_says_what_stopped_it(limits, stopped_by):
    found = minimize(valley, START, **LIMITS | limits)
    assert found.stopped_by == stopped_by
    assert found.converged == (stopped_by == "gradient")
    assert found.n_iter <= limits.get("max_iter", 500)
    assert found.n_iter <= limits.get("max_fun", 1000)


def test_a_callback_may_stop_it_and_sees_the_loss_fall():
    seen = []

    def watch(n_iter, value, p):
        seen.append(value)
        return n_iter == 5

    found = minimize(valley, START, **LIMITS, on_iteration=watch)
    assert found.stopped_by == "callback"
    assert len(seen) == found.n_iter == 5
    assert seen == sorted(seen, reverse=True)


def test_numbers_that_are_not_finite_are_told_not_followed():
    assert minimize(lambda p: (float("nan"), p), np.ones(2), **LIMITS).stopped_by == "not finite"

    def cliff(p):  # defined only below 2, and falling towards it
        inside = bool(np.all(p < 2.0))
        return (float(np.sum((p - 1.9) ** 2)) if inside else float("inf")), 2.0 * (p - 1.9)

    found = minimize(cliff, np.array([-50.0, 0.0]), **LIMITS)
    np.testing.assert_allclose(found.p, 1.9, atol=1e-6)


def test_a_search_turns_back_where_the_loss_is_not_finite():
    tried = []

    def fence(p):  # falls towards 1, where it ends
        x = float(p[0])
        tried.append(x)
        return (-0.1 * x - 1e-3 * math.log(1.0 - x), np.array([1e-3 / (1.0 - x) - 0.1])) if x < 1.0 else (math.inf, p)

    for start in (-50.0, -5.0, -0.5):
        tried.clear()
        found = minimize(fence, np.array([start]), **LIMITS | {"max_iter": 1})
        assert start < found.p[0] < 1.0
        beyond = [min((x for x in tried[:i] if x >= 1.0), default=math.inf) for i in range(len(tried))]
        assert all(x <= nearest for x, nearest in zip(tried, beyond, strict=True)), tried
        assert beyond[-1] < math.inf, "it never got there, so nothing was shown"


def test_a_memory_that_leads_nowhere_is_forgotten():
    target = np.linspace(-1.0, 1.0, 5)

    def function(p):
        return float(0.5 * np.sum((p - target) ** 2)), p - target

    p = np.full(5, 3.0)
    # One pair from which the curvature seems to be 1e40: no step along that direction changes p.
    state, runner = (
        State(p, (function(p)[1], np.full(5, 1e-20), np.full(5, 1e20)), 1),
        lbfgs.Runner(function, max_fun=100, tol=1e-8),
    )
    while not (why := runner.finished(state)):
        state, _ = runner.epoch(state)
    assert why == "gradient"
    np.testing.assert_allclose(state.p, target, atol=1e-8)


def test_at_the_bottom_of_a_bowl_in_float32_the_search_gives_up_once():
    curvature, target = np.linspace(1, 50, 20, dtype="float32"), np.linspace(-1, 1, 20, dtype="float32")

    def function(p):  # around 100 a float32 has steps of 8e-6, in which the last of the way is lost
        r = p - target
        return np.float32(100) + np.sum(curvature * r * r) / 2, curvature * r

    found = minimize(function, np.zeros(20, "float32"), **LIMITS | {"tol": 0.0})
    assert found.stopped_by == "line search"
    assert found.n_fun < 100  # 30 were seen; without forgetting the memory it goes on for all 1000
    np.testing.assert_allclose(found.p, target, atol=2e-3)


def test_flat_ground_in_float32_ends_without_a_loop():
    found = minimize(lambda p: (np.float32(1.0), np.full(2, 1e-3, np.float32)), np.ones(2, np.float32), **LIMITS)
    assert found.stopped_by == "line search"
    assert found.n_fun < 100


def test_the_module_says_where_it_comes_from():
    assert re.search(r"Nocedal & Wright", lbfgs.__doc__)
    assert re.search(r"More & Thuente", lbfgs.__doc__)


def test_the_blocks_of_an_objective_are_even():
    network, place = MLP([4, 1000, 1]).network, select("numpy")
    for n in (1, 511, 512, 513, 1_030, 5_000):
        rows = even_blocks(network, place, n)
        n_blocks = -(-n // rows)
        assert rows <= rows_at_once(network, place) == 512
        assert n_blocks == -(-n // 512)  # no more than there must be
        assert n_blocks * rows - n < n_blocks  # and the last holds hardly less
