"""Initializers: the law that each row claims, on the host, the same on every backend."""

import re

import numpy as np
import pytest
from scipy import stats
from witnesses import mlp

from xpmlp import MLP, normal
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.initializers import INITIALIZERS, initializer

N_IN, N_OUT = 300, 200
# The papers' variances, as numbers
VARIANCES = {
    "glorot_uniform": 2 / 500,
    "glorot_normal": 2 / 500,
    "he_uniform": 2 / 300,
    "he_normal": 2 / 300,
    "lecun_uniform": 1 / 300,
    "lecun_normal": 1 / 300,
    "linear_uniform": 1 / 900,
    "normal": 0.01,
    "zeros": 0.0,
}
with_variance = pytest.mark.parametrize("name", VARIANCES)


def draw(row, shape=(N_IN, N_OUT), gain=1.0, seed=0):
    n_in, n_out = shape if len(shape) == 2 else (N_IN, shape[0])
    return row.draw(np.random.default_rng(seed), shape, n_in, n_out, gain)


def test_every_row_is_tested_here():
    assert set(VARIANCES) | {"orthogonal"} == set(INITIALIZERS)


@with_variance
def test_weights_have_mean_0_and_the_variance_of_the_paper(name):
    row = INITIALIZERS[name]
    assert row.variance(N_IN, N_OUT) == pytest.approx(VARIANCES[name])
    W = draw(row)
    assert W.shape == (N_IN, N_OUT)
    assert W.dtype == np.float64
    sigma = VARIANCES[name] ** 0.5
    assert abs(W.mean()) <= 4 * sigma / W.size**0.5  # 4 standard deviations of a mean, and of a normal variance
    assert abs(W.var() - sigma**2) <= 4 * sigma**2 * (2 / W.size) ** 0.5


@with_variance
def test_weights_have_the_law_that_the_name_says(name):
    if name == "zeros":
        pytest.skip("zeros have no law")
    W, sigma = draw(INITIALIZERS[name]).ravel(), VARIANCES[name] ** 0.5
    bound = sigma * 3**0.5
    law = stats.uniform(-bound, 2 * bound) if name.endswith("uniform") else stats.norm(0.0, sigma)
    assert stats.kstest(W, law.cdf).pvalue > 1e-3
    other = stats.norm(0.0, sigma) if name.endswith("uniform") else stats.uniform(-bound, 2 * bound)
    assert stats.kstest(W, other.cdf).pvalue < 1e-9, "the test cannot tell the laws apart"


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
def test_orthogonal_weights_are_orthogonal_with_the_gain_of_the_activation(shape):
    W = draw(INITIALIZERS["orthogonal"], shape, gain=2.0)
    gram = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(gram, 4.0 * np.eye(min(shape)), atol=1e-13)
    # Haar's law has no preferred sign: without the signs of R, LAPACK's first column points one way always.
    first = [draw(INITIALIZERS["orthogonal"], (2, 2), seed=seed)[0, 0] > 0 for seed in range(100)]
    assert 30 < sum(first) < 70


def test_orthogonal_weights_take_the_gain_from_the_layers_activation():
    net = MLP([8, 8, 8], activations=["relu", "identity"], initializer="orthogonal", random_state=1)
    for k, gain in ((1, ACTIVATIONS["relu"].init_gain), (2, 1.0)):
        np.testing.assert_allclose(net.W[k].T @ net.W[k], gain**2 * np.eye(8), atol=1e-13)


def test_each_layer_takes_the_initializer_that_suits_its_activation():
    net = MLP([400, 300, 200, 100], activations=["relu", "selu", "tanh"], random_state=0)
    for k, variance in ((1, 2 / 400), (2, 1 / 300), (3, 2 / 300)):
        assert np.var(net.W[k]) == pytest.approx(variance, rel=0.05)
        assert not np.any(net.b[k])


def test_the_same_seed_is_the_same_network_on_every_backend(backend):
    for dtype in backend.dtypes:
        here = mlp(backend, [3, 4, 2], dtype=dtype, random_state=7)
        there = MLP([3, 4, 2], random_state=7)
        backend.assert_close(here.parameters, there.parameters.astype(dtype))
        for k in (1, 2):
            backend.assert_close(here.W[k], there.W[k].astype(dtype))
            backend.assert_close(here.b[k], there.b[k].astype(dtype))


def test_other_seeds_and_other_networks_are_other_weights():
    parameters = [MLP([3, 4, 2], random_state=seed).parameters for seed in (0, 1)]
    parameters += list(MLP([3, 4, 2], n_networks=3, random_state=0).parameters)
    assert len({p.tobytes() for p in parameters}) == 5


def test_normal_takes_the_sigma_of_the_tutorial():
    assert repr(normal(0.5)) == "<initializer normal(sigma=0.5)>"
    assert np.std(MLP([200, 200], initializer=normal(0.5), random_state=0).W[1]) == pytest.approx(0.5, rel=0.02)
    assert not np.any(MLP([3, 2], initializer="zeros").parameters)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: initializer("glorot"), ValueError, "unknown initializer 'glorot'; did you mean 'glorot_"),
        (lambda: initializer(3), ValueError, "unknown initializer 3; Choose one of glorot_normal, glorot_uniform, "),
        (lambda: normal(-1), ValueError, "sigma must be a finite number at least 0; got -1."),
        (lambda: normal(float("nan")), ValueError, "sigma must be a finite number at least 0; got nan."),
    ],
)
def test_wrong_names_and_sigmas_are_refused(make, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make()
