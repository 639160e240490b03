"""Activations: every row against a formula of another origin, its derivative against differences of that formula."""

import re

import numpy as np
import pytest
from witnesses import ACTIVATION, slopes

from xpmlp.network import pullback
from xpmlp.network.activations import ACTIVATIONS, SELU_ALPHA, SELU_SCALE, activation

each_row = pytest.mark.parametrize("row", ACTIVATIONS.values(), ids=lambda row: row.name)

# (m, batch, n); 24 points on both sides of every kink, none nearer than 0.26
Z = np.linspace(-6.0, 6.0, 24).reshape(2, 3, 4)[:, :, ::-1]

# Largest difference over largest value, all rows and backends: 2.4e-16 and 1.4e-7.
VALUES = {"float64": 2e-15, "float32": 1e-6}
# The same for derivatives, h = 1e-5: 1.2e-10; 4.2e-6 (gelu with JAX's tanh). One off by 0.1 % is 1e-3 off.
SLOPES = {"float64": 1e-9, "float32": 1e-5}


def test_every_row_has_a_witness():
    assert set(ACTIVATION) == set(ACTIVATIONS)
    assert all(name == row.name for name, row in ACTIVATIONS.items())


@each_row
def test_values_are_those_of_an_independent_formula(row, backend):
    for dtype in backend.dtypes:
        z = backend.put(Z, dtype)
        backend.assert_close(row.function(z), ACTIVATION[row.name](Z), rtol=VALUES[dtype], dtype=dtype)
        np.testing.assert_array_equal(backend.get(z), Z.astype(dtype), err_msg="the input was changed")


@each_row
def test_derivatives_are_the_slopes_of_that_formula(row, backend, rng):
    # dL/dz for L = sum(da * f(z)) is what back-propagation asks of a row, the whole Jacobian of softmax included.
    da = rng.normal(size=Z.shape)
    desired = slopes(lambda z: np.sum(da * ACTIVATION[row.name](z)), Z)
    for dtype in backend.dtypes:
        z, upstream = backend.put(Z, dtype), backend.put(da, dtype)
        dz = pullback(row, upstream, z, row.function(z), show=True)
        backend.assert_close(dz, desired, rtol=SLOPES[dtype], dtype=dtype)
        np.testing.assert_array_equal(backend.get(upstream), da.astype(dtype), err_msg="da was changed")


@each_row
def test_the_derivative_column_is_the_slope_of_each_unit_by_itself(row, rng):
    # On NumPy only: the test above holds every backend to the same lines, softmax's diagonal excepted.
    def own_slope(i):
        step = np.zeros(Z.shape)
        step[..., i] = 1e-5
        return (ACTIVATION[row.name](Z + step) - ACTIVATION[row.name](Z - step))[..., i] / 2e-5

    desired = np.stack([own_slope(i) for i in range(Z.shape[-1])], axis=-1)
    np.testing.assert_allclose(row.derivative(Z, row.function(Z)), desired, rtol=0, atol=1e-9 * np.abs(desired).max())


def test_the_comparison_with_slopes_objects_to_a_thousandth(rng):
    da = rng.normal(size=Z.shape)
    for row in ACTIVATIONS.values():
        desired = slopes(lambda z, row=row: np.sum(da * ACTIVATION[row.name](z)), Z)
        wrong = 1.001 * pullback(row, da, Z, row.function(Z), show=True)
        assert np.max(np.abs(wrong - desired)) > 50 * SLOPES["float32"] * np.max(np.abs(desired))


@each_row
def test_far_out_every_activation_and_its_derivative_stay_finite(row, backend):
    # exp excepted: above z = 709 (88 in float32) infinity is the right value.
    Z = np.array([[-1e4, -200.0, 0.5, 200.0 if row.name != "exp" else 8.0, 1e4 if row.name != "exp" else 9.0]])
    for dtype in backend.dtypes:
        z = backend.put(Z, dtype)
        a = row.function(z)
        backend.assert_close(a, ACTIVATION[row.name](Z), rtol=VALUES[dtype], dtype=dtype)
        dz = backend.get(pullback(row, backend.put(np.ones(Z.shape), dtype), z, a, show=True))
        assert np.all(np.isfinite(dz))
        if row.name != "softmax":  # whose pullback couples the columns
            flat = {
                "sigmoid": (0, 0),
                "tanh": (0, 0),
                "relu": (0, 1),
                "leaky_relu": (0.01, 1),
                "selu": (0, 1.0507009873),
            }
            left, right = flat.get(row.name, (1, 1) if row.name == "identity" else (0, 1))
            np.testing.assert_allclose(dz[0, 0], left, atol=1e-6)
            if row.name != "exp":
                np.testing.assert_allclose(dz[0, -1], right, rtol=1e-6)


def test_exp_beyond_the_largest_float_is_infinite(backend):
    with np.errstate(over="ignore"):
        assert np.isposinf(backend.get(ACTIVATIONS["exp"].function(backend.put([[1e4]]))))


@each_row
def test_networks_on_a_leading_axis_do_not_meet(row, backend):
    together = backend.get(row.function(backend.put(Z)))
    # A whole array and its half may take different vector instructions: 1 unit in the last place.
    backend.assert_close(row.function(backend.put(Z[0])), together[0], rtol=VALUES[backend.dtypes[0]])


def test_softmax_ignores_a_shift_and_sums_to_one(backend):
    softmax = ACTIVATIONS["softmax"].function
    z = np.round(Z * 64) / 64  # so that z + 512 is exact, in float32 too
    a = backend.get(softmax(backend.put(z)))
    backend.assert_close(softmax(backend.put(z + 512.0)), a)
    np.testing.assert_allclose(a.sum(axis=-1), 1.0, rtol=1e-6)


def test_the_constants_of_selu_keep_mean_zero_and_variance_one():
    # That is what they are: E f(z) = 0 and E f(z)^2 = 1 for normal z, integrated on a fine grid to 1e-9.
    z, step = np.linspace(-12.0, 12.0, 400_001, retstep=True)
    a = np.where(z > 0, z, SELU_ALPHA * np.expm1(np.minimum(z, 0.0))) * SELU_SCALE
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    assert abs(np.sum(a * density) * step) < 1e-9
    assert abs(np.sum(a**2 * density) * step - 1.0) < 1e-9


@each_row
def test_the_gain_is_that_of_the_literature(row):
    # tanh 5/3 and ReLU sqrt(2) as in He et al. and in PyTorch's calculate_gain; ReLU's halves the variance exactly.
    known = {"tanh": 5 / 3, "relu": 2**0.5, "leaky_relu": (2 / (1 + 0.01**2)) ** 0.5}
    assert row.init_gain == known.get(row.name, 1.0)


def test_names_aliases_rows_and_pairs_are_accepted():
    row = ACTIVATIONS["sigmoid"]
    assert activation("sigmoid") is activation("logistic") is activation(row) is row
    assert activation("swish").name == "silu"

    def cube(z):
        return z**3

    own = activation((cube, lambda z, a: 3 * z**2))
    assert own.function is cube
    assert "cube" in repr(own)


@pytest.mark.parametrize(
    "value, error, message",
    [
        (
            "rleu",
            ValueError,
            "unknown activation 'rleu'; did you mean 'relu'? Choose one of elu, exp, gelu, identity, ",
        ),
        (np.tanh, TypeError, "an activation must be a name or a pair of functions (f(z), f'(z, a)); got "),
        ((np.tanh,), TypeError, "an activation must be a name or a pair of functions (f(z), f'(z, a)); got "),
        (None, TypeError, "an activation must be a name or a pair of functions (f(z), f'(z, a)); got None."),
    ],
)
def test_what_is_no_activation_is_refused(value, error, message):
    with pytest.raises(error, match=re.escape(message)):
        activation(value)


def test_a_small_probability_keeps_its_digits(backend):
    # Through tanh, sigmoid(-40) would be exactly 0 and its logarithm minus infinity, where -40 is right.
    z = np.asarray([-80.0, -40.0, -20.0, 0.0, 20.0])
    log_p = backend.xp.log(ACTIVATIONS["sigmoid"].function(backend.put(z)))
    backend.assert_close(log_p, -np.log1p(np.exp(-z)), rtol=1e-6)
