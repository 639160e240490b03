"""Losses: every row against another implementation, its derivative against differences, its stable forms far out."""

# ruff: noqa: E501  # messages stand unbroken

import math
import re

import numpy as np
import pytest
from scipy import special
from witnesses import ACTIVATION, LOSS, of_each_sample, outputs, slopes, targets

from xpmlp.network import mean, pullback
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES, loss
from xpmlp.network.targets import check_targets

each_row = pytest.mark.parametrize("row", LOSSES.values(), ids=lambda row: row.name)
each_canonical_row = pytest.mark.parametrize(
    "row", [row for row in LOSSES.values() if row.link is not None], ids=lambda row: row.name
)
SHAPE = (2, 5, 3)  # (m, batch, n)

# Largest difference over largest value, all rows and backends: 3e-16 and 8e-8.
VALUES = {"float64": 2e-15, "float32": 1e-6}
# Derivatives against differences with h = 2e-6: below 2e-9 and 1e-7; a derivative off by 0.1 % is 1e-3 off.
SLOPES = {"float64": 2e-9, "float32": 2e-6}


def test_every_row_has_a_witness_and_a_link_that_exists():
    assert set(LOSS) == set(LOSSES)
    for row in LOSSES.values():
        assert row.link is None or ACTIVATIONS[row.link].outputs == row.outputs


@each_row
def test_values_are_those_of_another_implementation(row, backend, rng):
    y, yhat = targets(row.targets, rng, SHAPE), outputs(row.outputs, rng, SHAPE)
    desired = of_each_sample(row.name, y, yhat)
    for dtype in backend.dtypes:
        values = row.value(backend.put(y, dtype), backend.put(yhat, dtype))
        backend.assert_close(values, desired, rtol=VALUES[dtype], dtype=dtype)
    backend.assert_close(  # one network, without the leading axis
        row.value(backend.put(y[0]), backend.put(yhat[0])), desired[0], rtol=VALUES[backend.dtypes[0]]
    )


@each_row
def test_derivatives_are_the_slopes_of_that_implementation(row, backend, rng):
    y, yhat = targets(row.targets, rng, SHAPE), outputs(row.outputs, rng, SHAPE)
    desired = slopes(lambda p: of_each_sample(row.name, y, p).sum(), yhat, h=2e-6)
    for dtype in backend.dtypes:
        derivative = row.derivative(backend.put(y, dtype), backend.put(yhat, dtype))
        backend.assert_close(derivative, desired, rtol=SLOPES[dtype], dtype=dtype)
        if dtype == "float64":
            with pytest.raises(AssertionError, match="largest difference"):
                backend.assert_close(1.001 * derivative, desired, rtol=SLOPES[dtype], dtype=dtype)


@each_canonical_row
def test_the_short_cut_over_scores_is_the_long_way_round(row, backend, rng):
    link, dtype = ACTIVATIONS[row.link], backend.dtypes[0]
    z = backend.put(rng.normal(size=SHAPE))
    y = backend.put(targets(row.targets, rng, SHAPE))
    a = link.function(z)
    backend.assert_close(row.value_from_scores(y, z), backend.get(row.value(y, a)), rtol=4 * VALUES[dtype])
    long = backend.get(pullback(link, row.derivative(y, a), z, a, show=True))
    backend.assert_close(row.derivative_from_scores(y, z, a), long, rtol=4 * VALUES[dtype])


FAR = {
    # scores, targets, the loss that an exact calculator gives
    "squared_error": ([[1e4], [-1e4]], [[0.0], [0.0]], [5e7, 5e7]),
    "binary_cross_entropy": (
        [[1e4], [1e4], [-1e4], [-1e4], [1e4]],
        [[1.0], [0.0], [0.0], [1.0], [0.25]],
        [0, 1e4, 0, 1e4, 7500],
    ),
    "cross_entropy": ([[1e4, -1e4, 0.0]] * 3, np.eye(3), [0.0, 2e4, 1e4]),
    # 2 log 2 - 2 * (-1e4) - 2; at +1e4 the loss is beyond the largest float, and infinity is the right value
    "poisson": ([[-1e4], [-1e4], [1e4]], [[2.0], [0.0], [2.0]], [2 * np.log(2) + 2e4 - 2, 0.0, np.inf]),
}


@each_canonical_row
def test_scores_of_ten_thousand_give_the_right_loss(row, backend):
    z, y, desired = map(np.asarray, FAR[row.name])
    for dtype in backend.dtypes:
        scores, target = backend.put(z, dtype), backend.put(y, dtype)
        with np.errstate(over="ignore"):
            backend.assert_close(row.value_from_scores(target, scores), desired, rtol=1e-7, dtype=dtype)
            a = ACTIVATIONS[row.link].function(scores)
            slope = row.derivative_from_scores(target, scores, a)
        with np.errstate(over="ignore"):
            exact = ACTIVATION[row.link](z.astype(float)) - y
        backend.assert_close(slope, exact, rtol=1e-7, dtype=dtype)


def test_a_saturated_output_that_is_right_costs_nothing_and_has_a_slope(backend):
    # sigmoid and softplus reach 0 and 1 exactly: 0 log 0 is 0, and 0 / 0 must not appear.
    y, yhat = backend.put([[0.0, 1.0]]), backend.put([[0.0, 1.0]])
    backend.assert_close(LOSSES["binary_cross_entropy"].value(y, yhat), [0.0], dtype=backend.dtypes[0])
    backend.assert_close(LOSSES["binary_cross_entropy"].derivative(y, yhat), [[1.0, -1.0]])
    backend.assert_close(LOSSES["cross_entropy"].derivative(y, yhat), [[0.0, -1.0]])
    backend.assert_close(LOSSES["poisson"].value(y, yhat), [0.0], dtype=backend.dtypes[0])
    backend.assert_close(LOSSES["poisson"].derivative(y, yhat), [[1.0, 0.0]])


# --- Parameters ---


def test_label_smoothing_is_cross_entropy_against_smoothed_targets(backend, rng):
    y, z = np.eye(4)[[0, 2, 3]], rng.normal(size=(3, 4))
    p = special.softmax(z, axis=-1)
    soft = 0.8 * y + 0.2 / 4
    row = loss("cross_entropy", label_smoothing=0.2)
    desired, tol = -np.sum(soft * np.log(p), axis=-1), 4 * VALUES[backend.dtypes[0]]
    backend.assert_close(row.value(backend.put(y), backend.put(p)), desired, rtol=tol)
    backend.assert_close(row.value_from_scores(backend.put(y), backend.put(z)), desired, rtol=tol)
    backend.assert_close(row.derivative(backend.put(y), backend.put(p)), -soft / p, rtol=tol)
    backend.assert_close(row.derivative_from_scores(*map(backend.put, (y, z, p))), p - soft, rtol=tol)


def test_huber_turns_from_square_to_line_at_delta(backend):
    y, yhat = np.zeros((5, 1)), np.array([[0.1], [2.0], [-2.0], [2.5], [-100.0]])
    row, dtype = loss("huber", delta=2.0), backend.dtypes[0]
    desired = special.huber(2.0, yhat[:, 0])  # 0.005, 2, 2, 3, 198
    np.testing.assert_allclose(desired, [0.005, 2.0, 2.0, 3.0, 198.0])
    backend.assert_close(row.value(backend.put(y), backend.put(yhat)), desired, rtol=VALUES[dtype])
    backend.assert_close(
        row.derivative(backend.put(y), backend.put(yhat)), np.clip(yhat, -2.0, 2.0), rtol=VALUES[dtype]
    )


def test_several_quantiles_are_of_one_target(backend):
    y, yhat = np.array([[1.0], [1.0]]), np.array([[0.0, 3.0], [2.0, 0.5]])
    row, dtype = loss("pinball", quantile=[0.1, 0.9]), backend.dtypes[0]
    # 0.1 * 1 + 0.1 * 2 = 0.3;   0.9 * 1 + 0.9 * 0.5 = 1.35
    backend.assert_close(row.value(backend.put(y), backend.put(yhat)), [0.3, 1.35], rtol=VALUES[dtype], dtype=dtype)
    backend.assert_close(
        row.derivative(backend.put(y), backend.put(yhat)), [[-0.1, 0.1], [0.9, -0.9]], rtol=VALUES[dtype], dtype=dtype
    )
    assert (row.target_width, row.n_outputs) == (1, 2)
    assert (loss("pinball").target_width, loss("pinball", quantile=0.9).n_outputs) == (None, None)


@pytest.mark.parametrize(
    "name, parameters, error, message",
    [
        ("crossentropy", {}, ValueError, "unknown loss 'crossentropy'; did you mean 'cross_entropy'? Choose one of "),
        ("huber", {"delta": 0}, ValueError, "delta must be a finite number above 0; got 0."),
        ("huber", {"gamma": 1.0}, ValueError, "loss 'huber' has no parameter 'gamma'; its parameters: delta."),
        ("squared_error", {"delta": 1.0}, ValueError, "loss 'squared_error' has no parameter 'delta'; its parameters: none."),
        ("pinball", {"quantile": (0.5, 1.0)}, ValueError, "quantile must be a finite number above 0 and below 1; got 1.0."),
        ("pinball", {"quantile": ()}, ValueError, "quantile must name at least one quantile; got none."),
        ("pinball", {"quantile": "0.5"}, TypeError, "quantile must be a finite number above 0 and below 1; got '0.5'"),
        ("cross_entropy", {"label_smoothing": 1}, ValueError, "label_smoothing must be a finite number at least 0 and below 1; got 1."),
        (abs, {}, TypeError, "a loss must be a name or a pair of functions (value(y, yhat), derivative(y, yhat)); got "),
    ],
)  # fmt: skip
def test_wrong_names_and_parameters_are_refused(name, parameters, error, message):
    with pytest.raises(error, match=re.escape(message)):
        loss(name, **parameters)


def test_a_pair_of_your_own_is_a_loss_on_real_outputs():
    def quartic(y, yhat):
        return ((yhat - y) ** 4).sum(axis=-1)

    row = loss((quartic, lambda y, yhat: 4 * (yhat - y) ** 3))
    assert row.value is quartic
    assert "quartic" in repr(row)
    assert row.accepts("real")
    assert row.link is None


# --- Domains ---


def test_a_loss_accepts_the_outputs_in_its_domain_and_no_others():
    accepted = {name: [kind for kind in ("real", "positive", "probability", "distribution") if row.accepts(kind)] for name, row in LOSSES.items()}  # fmt: skip
    for name in ("squared_error", "sum_of_squares", "absolute_error", "huber", "pinball"):
        assert accepted.pop(name) == ["real", "positive", "probability", "distribution"]
    assert accepted == {
        "poisson": ["positive", "probability", "distribution"],
        "binary_cross_entropy": ["probability", "distribution"],
        "cross_entropy": ["distribution"],
    }


@pytest.mark.parametrize(
    "name, y, message",
    [
        ("poisson", [[1.0], [-2.0]], "y must not be negative for the loss 'poisson'; got a target of -2."),
        ("binary_cross_entropy", [[-1.0], [1.0]], "y must not be negative for the loss 'binary_cross_entropy'; got a target of -1."),
        ("binary_cross_entropy", [[2.0]], "y must lie between 0 and 1 for the loss 'binary_cross_entropy'; got a target of 2. Encode class labels first, as 0 and 1 or one-hot."),
        ("cross_entropy", [[0.0, 3.0]], "y must lie between 0 and 1 for the loss 'cross_entropy'; got a target of 3."),
        ("cross_entropy", [[0.5, 0.5], [0.5, 0.0]], "each row of y must sum to 1 for the loss 'cross_entropy' (one-hot or soft targets); one is 0.5 off."),
    ],
)  # fmt: skip
def test_targets_outside_the_domain_are_refused(name, y, message, backend):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_targets(LOSSES[name], backend.put(y))


@each_row
def test_targets_inside_the_domain_pass(row, backend, rng):
    check_targets(row, backend.put(targets(row.targets, rng, SHAPE)))


# --- Weights ---


def test_the_weighted_mean_of_losses_is_their_sum_over_the_sum_of_weights(backend, rng):
    values, w = rng.random((2, 5)), rng.random((2, 5))
    tol = VALUES[backend.dtypes[0]]
    backend.assert_close(mean(backend.put(values)), values.mean(axis=-1), rtol=tol)
    desired = np.stack([np.average(v, weights=u) for v, u in zip(values, w, strict=True)])
    backend.assert_close(mean(backend.put(values), backend.put(w)), desired, rtol=tol)


def test_samples_that_all_weigh_nothing_have_no_loss(backend):
    w = np.array([[0.0, 0.0], [1.0, 3.0]])
    backend.assert_close(mean(backend.put([[5.0, 7.0], [5.0, 7.0]]), backend.put(w)), np.array([0.0, 6.5]))


# z, how many classes, and the exact loss of the right answer: log(1 + (n - 1) exp(-z)), which is next to nothing
SURE = [(z, float(np.log1p(np.exp(-z)))) for z in (2.0, 8.0, 12.0, 17.0, 30.0, 40.0, 80.0)]
EXACT = {"float64": 1e-14, "float32": 2e-6}


@pytest.mark.parametrize("z, desired", SURE)
def test_a_sure_right_answer_keeps_its_digits_whichever_class_it_is(z, desired, backend):
    for dtype in backend.dtypes:
        both = backend.put(np.array([[1.0], [0.0]]), dtype), backend.put(np.array([[z], [-z]]), dtype)
        values = LOSSES["binary_cross_entropy"].value_from_scores(*both)
        backend.assert_close(values, np.full(2, desired), rtol=EXACT[dtype], dtype=dtype)
        scores = backend.put(np.array([[z, 0.0], [0.0, z], [z, 0.0]]), dtype)
        y = backend.put(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), dtype)
        values = LOSSES["cross_entropy"].value_from_scores(y, scores)
        backend.assert_close(values[:2], np.full(2, desired), rtol=EXACT[dtype], dtype=dtype)
        backend.assert_close(values[2:], np.full(1, z + desired), rtol=EXACT[dtype], dtype=dtype)


def test_classes_that_tie_all_count(backend):
    y, z = np.array([[1.0, 0.0, 0.0]]), np.array([[5.0, 5.0, 5.0]])
    values = LOSSES["cross_entropy"].value_from_scores(backend.put(y), backend.put(z))
    backend.assert_close(values, np.log([3.0]), rtol=VALUES[backend.dtypes[0]])


@pytest.mark.parametrize("off", [1e-1, 1e-3, 1e-5, -1e-5, -1e-3, -0.4, -0.6, -30.0, 3.0])
def test_poisson_near_its_optimum_keeps_its_digits(off, backend):
    # y = 1, so that the optimum lies at z = 0 and z has all its digits
    for dtype in backend.dtypes:
        z = np.array([[off]]).astype(dtype)
        t = float(z[0, 0])
        series = math.fsum(t**n / math.factorial(n) for n in range(2, 25))
        desired = series if abs(t) < 1.0 else math.exp(t) - 1.0 - t
        values = LOSSES["poisson"].value_from_scores(backend.put(np.ones((1, 1)), dtype), backend.put(z, dtype))
        backend.assert_close(values, np.array([desired]), rtol=EXACT[dtype], dtype=dtype)


@pytest.mark.parametrize("off", [0.0, 5e-4, -9e-4])
def test_soft_targets_that_sum_almost_to_one_sum_to_one_behind_the_door(off, backend, rng):
    y = rng.uniform(size=(5, 3))
    y *= (1.0 + off) / y.sum(axis=1, keepdims=True)
    taken = check_targets(LOSSES["cross_entropy"], backend.put(y))
    dtype = backend.dtypes[0]
    backend.assert_close(taken, y / y.sum(axis=1, keepdims=True), rtol=VALUES[dtype], dtype=dtype)
