"""curvature is the largest eigenvalue of P^1/2 H P^1/2, and above 2 plain gradient descent diverges."""

from __future__ import annotations

import re

import numpy as np
import pytest

import xpmlp
from xpmlp import MLP, curvature


def net_and_batch(rng, activations=("tanh", "softplus", "identity"), loss="squared_error", batch=30, **options):
    outputs = 3 if loss == "cross_entropy" else 1
    net = MLP([2, 4, 3, outputs], list(activations), loss, random_state=0, **options)
    net.parameters = net.parameters + 0.3 * rng.normal(size=net.parameters.shape)
    y = np.eye(3)[rng.integers(3, size=batch)] if outputs == 3 else (rng.uniform(size=batch) > 0.5).astype(float)
    return net, rng.normal(size=(batch, 2)), y


def hessian_of(torch, net, X, y, w):
    """By automatic differentiation, of a loss written anew with the library's own functions."""
    named = {
        "tanh": torch.tanh,
        "relu": torch.relu,
        "sigmoid": torch.sigmoid,
        "softplus": torch.nn.functional.softplus,
        "identity": lambda z: z,
        "softmax": lambda z: torch.softmax(z, -1),
    }
    x, t = torch.from_numpy(X), torch.from_numpy(y.reshape(len(y), -1))

    def L(flat):
        a = x
        p = net.layout.unpack(flat)
        for k, f in enumerate(net.network.activations, start=1):
            a = named[f.name](a @ p.W[k] + p.b[k])
        losses = {
            "squared_error": lambda: 0.5 * ((a - t) ** 2).sum(-1),
            "binary_cross_entropy": lambda: -(t * a.log() + (1 - t) * (1 - a).log()).sum(-1),
            "cross_entropy": lambda: -(t * a.log()).sum(-1),
        }[net.network.loss.name]()
        share = torch.full_like(losses, 1 / len(losses)) if w is None else torch.from_numpy(w / w.sum())
        return (share * losses).sum()

    return torch.autograd.functional.hessian(L, torch.from_numpy(np.array(net.parameters))).numpy()


CASES = [
    (("tanh", "softplus", "identity"), "squared_error"),
    (("relu", "relu", "sigmoid"), "binary_cross_entropy"),
    (("tanh", "relu", "softmax"), "cross_entropy"),
    (("sigmoid", "tanh", "tanh"), "squared_error"),  # not a canonical pair
]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("activations, loss", CASES, ids=lambda it: it if isinstance(it, str) else "-".join(it))
def test_it_is_the_largest_eigenvalue_that_autodiff_finds(activations, loss, weighted, rng):
    torch = pytest.importorskip("torch")
    net, X, y = net_and_batch(rng, activations, loss)
    w = rng.uniform(size=len(X)) if weighted else None
    H = hessian_of(torch, net, X, y, w)
    # Seen: all of these within 1e-8; the residual that Lanczos' method stops at is 1e-4.
    assert curvature(net, X, y, w) == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-6)
    rates_W, rates_b = [2.0, 0.5, 1.0], [0.01, 0.0, 3.0]
    of_segment = {"W": rates_W, "b": rates_b}
    P = np.concatenate([np.full(s.stop - s.start, of_segment[s.name][s.layer - 1]) for s in net.layout.segments])
    root = np.sqrt(0.7 * P)
    expected = np.linalg.eigvalsh(root[:, None] * H * root)[-1]
    found = curvature(net, X, y, w, learning_rate=0.7, learning_rate_factors=(rates_W, rates_b))
    assert found == pytest.approx(expected, rel=1e-6)


def test_of_least_squares_it_is_the_largest_eigenvalue_of_the_moments(backend, rng):
    if not backend.float64:
        pytest.skip("curvature needs float64")
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    net = MLP([3, 1], backend=backend.name, device=backend.place.device_name, random_state=0)
    ones = np.c_[X, np.ones(20)]
    expected = np.linalg.eigvalsh(ones.T @ ones / 20)[-1]
    assert curvature(net, backend.put(X), backend.put(y)) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("share", [0.98, 1.02])
def test_plain_gradient_descent_diverges_above_two_and_only_there(share, rng):
    # A quadratic, so the criterion is exact: |1 - s| of the steepest direction is 0.96 or 1.04 a step.
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    net = MLP([3, 1], random_state=0)
    rate = share * 2.0 / curvature(net, X, y)
    assert curvature(net, X, y, learning_rate=rate) == pytest.approx(2.0 * share, rel=1e-7)
    for _ in range(400):
        net.forward(X)
        net.backward(y)
        net.update(rate)
    assert (net.evaluate(X, y) < 10.0) == (share < 1.0)


def test_factors_by_layer_are_those_of_fit(rng):
    net, X, y = net_and_batch(rng)
    by_layer = curvature(net, X, y, learning_rate_factors=[1.0, 0.5, 0.0])
    assert by_layer == curvature(net, X, y, learning_rate_factors=([1.0, 0.5, 0.0], [1.0, 0.5, 0.0]))
    assert by_layer < curvature(net, X, y)
    assert curvature(net, X, y, learning_rate_factors=[0.0] * 3) == 0.0


def test_two_layers_may_have_a_factor_each_or_a_pair(rng):
    net, X, y = MLP([2, 3, 1], "tanh", random_state=0), rng.normal(size=(9, 2)), rng.normal(size=9)
    each = curvature(net, X, y, learning_rate_factors=[1.0, 0.0])
    assert each == curvature(net, X, y, learning_rate_factors=([1.0, 0.0], [1.0, 0.0]))


def test_several_networks_are_looked_at_one_by_one(rng):
    net, X, y = net_and_batch(rng, n_networks=3)
    found = curvature(net, X, y)
    assert found.shape == (3,)
    for i, value in enumerate(found):
        one = MLP([2, 4, 3, 1], ["tanh", "softplus", "identity"], random_state=0)
        one.parameters = net.parameters[i]
        assert value == pytest.approx(curvature(one, X, y), rel=1e-9)


@pytest.mark.parametrize("z", [-1e-7, 1e-7])
def test_a_sample_beside_a_kink_has_the_curvature_of_its_own_side(z):
    # The first sample is 1e-7 from the kink, and a step of 1e-5 crosses it: the slope of L jumps there, and
    # a difference across the jump would be 1e4 times too large; without the sample, its share would be missing.
    net = MLP([1, 1, 1], ["relu", "identity"], random_state=0).set_weights([[[1.0]], [[1.0]]], [[z - 1.0], [0.0]])
    H = np.zeros((4, 4))  # of W[1], W[2], b[1], b[2]
    for x in (1.0, 2.0):
        score = x + z - 1.0
        on = float(score > 0)
        slope = np.array([on * x, on * score, on, 1.0])  # of yhat
        bend = np.zeros((4, 4))
        bend[0, 1] = bend[1, 0] = on * x
        bend[1, 2] = bend[2, 1] = on
        H += (np.outer(slope, slope) + (on * score - 5.0) * bend) / 2
    found = curvature(net, np.array([[1.0], [2.0]]), np.array([5.0, 5.0]))
    # Of one side the difference is of first order: seen 2e-5
    assert found == pytest.approx(np.linalg.eigvalsh(H)[-1], rel=1e-4)


def test_an_estimator_is_looked_at_with_its_labels(rng):
    X = rng.normal(size=(60, 2))
    clf = xpmlp.MLPClassifier((4,), max_iter=300, random_state=0, solver="lbfgs").fit(
        X, np.where(X[:, 0] > 0, "a", "b")
    )
    assert curvature(clf, X, clf.predict(X)) > 0.0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0; got 0.0."),
        (
            {"learning_rate_factors": [1.0]},
            "learning_rate_factors must hold one for each of the 3 layers, or a pair (of W, of b) of such; got 1.",
        ),
        ({"learning_rate_factors": [1.0, -1.0, 1.0]}, "learning_rate_factors[1] must be a finite number at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, message, rng):
    with pytest.raises(ValueError, match=re.escape(message)):
        curvature(*net_and_batch(rng), **options)
