"""L-BFGS: as good as SciPy's, in any namespace, within its limits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from xpmlp.network import Network
from xpmlp.network.activations import activation
from xpmlp.network.losses import loss
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import Data, Task, lbfgs
from xpmlp.runners.lbfgs import minimize, objective

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


def test_flat_ground_in_float32_ends_without_a_loop():
    found = minimize(lambda p: (np.float32(1.0), np.full(2, 1e-3, np.float32)), np.ones(2, np.float32), **LIMITS)
    assert found.stopped_by == "line search"
    assert found.n_fun < 100


def test_the_module_says_where_it_comes_from():
    assert re.search(r"Nocedal & Wright", lbfgs.__doc__)
    assert re.search(r"More & Thuente", lbfgs.__doc__)
