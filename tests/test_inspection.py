"""check_gradients agrees with right derivatives, objects to wrong ones, and says where to look."""

from __future__ import annotations

import dataclasses
import re
import sys
from decimal import Decimal, localcontext
from fractions import Fraction
from importlib.util import find_spec

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.class_weight import compute_sample_weight

import xpmlp
from xpmlp import MLP, check_gradients
from xpmlp.backends import array_namespace
from xpmlp.network.activations import ACTIVATIONS
from xpmlp.network.losses import LOSSES

HIDDEN = [row for row in ACTIVATIONS.values() if row.outputs != "distribution"]
TRIOS = [
    (hidden, output, loss)
    for hidden in HIDDEN
    for output in ACTIVATIONS.values()
    for loss in LOSSES.values()
    if loss.accepts(output.outputs)
]
# All trios, 20 seeds, h = 4e-6: at most 1.1e-7, and for one fixed seed below 1e-7; see xpmlp/inspection/differences.py.
TIGHT = 1e-7
# To many digits what is left is the rounding of ours: seen, over 233 of the trios, at most 9.2e-16.
ROUNDING = 1e-14


def problem(hidden, output, loss, rng, *, networks=None, batch=7):
    """A net whose biases are not zero, inputs, and targets in the loss's domain; on the host."""
    outputs = 1 if loss.name == "pinball" else 3
    # exp of exp is beyond what differences can follow
    second = "tanh" if hidden.name == "exp" else hidden
    net = MLP([3, 5, 4, outputs], [hidden, second, output], loss, n_networks=networks, random_state=1)
    net.parameters = net.parameters + 0.1 * rng.normal(size=net.parameters.shape)
    y = rng.uniform(0.1, 0.9, size=(batch, outputs))
    if loss.targets == "distribution":
        y /= y.sum(axis=1, keepdims=True)
    return net, rng.normal(size=(batch, 3)), y


def circles(backend, rng, **options):
    """A small classification problem on a backend."""
    net = MLP(
        [2, 4, 3, 1],
        ["relu", "tanh", "sigmoid"],
        "binary_cross_entropy",
        backend=backend.name,
        device=backend.place.device_name,
        random_state=3,
        **options,
    )
    X = rng.normal(size=(20, 2))
    return net, backend.put(X), backend.put((np.sum(X * X, axis=1, keepdims=True) < 1).astype(float))


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda row: row.name)
def test_every_activation_output_and_loss_agrees_with_differences(hidden, rng):
    for first, output, loss in TRIOS:
        if first is hidden:
            report = check_gradients(*problem(hidden, output, loss, rng), tolerance=TIGHT)
            assert report, f"{output} {loss}\n{report}"


def test_the_general_path_agrees_too_where_a_short_cut_is_left_out(rng):
    for loss in LOSSES.values():
        if loss.link is not None:
            general = dataclasses.replace(loss, link=None)
            assert check_gradients(*problem(ACTIVATIONS["tanh"], ACTIVATIONS[loss.link], general, rng), tolerance=TIGHT)


def test_it_works_on_every_backend_with_float64(backend, rng):
    if not backend.float64:
        pytest.skip("needs float64")
    net, X, y = circles(backend, rng)
    w = backend.put(rng.uniform(size=20))
    report = check_gradients(net, X, y, w, tolerance=TIGHT)
    assert report
    assert [row.label for row in report] == ["W[1]", "b[1]", "W[2]", "b[2]", "W[3]", "b[3]"]
    assert report["W", 2].shape == (4, 3)
    assert report.loss == pytest.approx(net.evaluate(X, y, w))


def test_it_refuses_where_there_is_no_float64(backend, rng):
    if backend.float64:
        pytest.skip("there is float64")
    with pytest.warns(xpmlp.PrecisionWarning):
        net, X, y = circles(backend, rng)
    with pytest.raises(ValueError, match=r"check_gradients needs float64, which .* lacks. Check a copy:"):
        check_gradients(net, X, y)


def test_a_float32_network_is_checked_in_float64(rng):
    net = MLP([2, 4, 1], "tanh", dtype="float32", random_state=0)
    X, y = rng.normal(size=(9, 2)).astype("float32"), rng.normal(size=9).astype("float32")
    assert check_gradients(net, X, y, tolerance=TIGHT)
    assert net.parameters.dtype == np.float32


def test_weights_take_part(rng):
    net, X, y = problem(ACTIVATIONS["relu"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng)
    w = np.array([1.0, 0.0, 2.0, 0.5, 0.0, 1.0, 3.0])
    assert check_gradients(net, X, y, w, tolerance=TIGHT)
    net.forward(X)
    net.backward(y)  # without them
    assert not check_gradients(net, X, y, w, gradients=(net.dW, net.db))


def test_several_networks_are_checked_at_once(rng):
    net, X, y = problem(ACTIVATIONS["relu"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"], rng, networks=3)
    assert check_gradients(net, X, y, tolerance=TIGHT)
    net.forward(X)
    net.backward(y)
    dW = [np.array(array) for array in net.dW[1:]]
    dW[1][2, 3, 0] += 1e-3
    report = check_gradients(net, X, y, gradients=(dW, net.db))
    assert [row.label for row in report if not row.ok] == ["W[2]"]
    assert report.worst.where == (2, 3, 0)  # network 2
    assert report.worst.difference == pytest.approx(1e-3, rel=1e-6)


def test_a_z_of_zero_is_no_false_alarm():
    # Biases of zero and an input of zero: every z[1] lies on the kink, where the derivative is taken as 0.
    net = MLP([2, 8, 1], "relu", random_state=0)
    X = np.array([[0.0, 0.0], [1.0, -2.0]])
    report = check_gradients(net, X, np.array([0.3, -0.4]), tolerance=TIGHT)
    assert report, str(report)
    assert report["b", 1].ours > 0


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "selu"])
def test_samples_that_step_across_a_kink_are_no_false_alarm(name):
    # z = x w within a step of 0, on either side.
    net = MLP([1, 1, 1], [name, "identity"], random_state=0).set_weights([[[1.0]], [[1.0]]], [[0.0], [0.0]])
    X = np.array([[1e-6], [-1e-6], [1.0]])
    # One-sided differences: rounding of 3 evaluations
    assert check_gradients(net, X, np.array([0.5, -0.5, 0.2]), tolerance=1e-6)


@pytest.mark.parametrize("row", HIDDEN, ids=lambda row: row.name)
def test_a_derivative_off_by_a_thousandth_is_caught(row, rng):
    off = dataclasses.replace(row, derivative=lambda z, a: 1.001 * row.derivative(z, a), pullback=None)
    net = MLP([3, 5, 2], [off, "identity"], random_state=0)
    report = check_gradients(net, rng.normal(size=(7, 3)), rng.normal(size=(7, 2)))
    assert not report
    assert [row.ok for row in report] == [False, False, True, True]
    for parameter in ("W", "b"):
        assert report[parameter, 1].factor == pytest.approx(1.001, rel=1e-6)
    assert report.hint.endswith("that is wrong: dW[1] is 1.001 times the numerical one.")


def test_a_loss_of_ones_own_is_checked(rng):
    def cubic(y, yhat):
        xp = array_namespace(yhat)
        return xp.sum(xp.abs(yhat - y) ** 3, axis=-1)

    def cubic_derivative(y, yhat):
        xp = array_namespace(yhat)
        return 3 * xp.sign(yhat - y) * (yhat - y) ** 2

    X, y = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))
    assert check_gradients(MLP([3, 5, 2], "tanh", (cubic, cubic_derivative), random_state=0), X, y, tolerance=TIGHT)
    wrong = MLP([3, 5, 2], "tanh", (cubic, lambda y, yhat: cubic_derivative(yhat, y)), random_state=0)
    report = check_gradients(wrong, X, y)
    assert [row.factor for row in report] == pytest.approx([-1.0] * 4, rel=1e-6)
    assert "dW[2]: its sign is wrong." in report.hint


@pytest.mark.parametrize(
    "factor, meaning",
    [
        (-1, "its sign is wrong"),
        (2, "it is doubled"),
        (0.5, "it is halved"),
        (0, "it is zero"),
        (20, "it is a sum over samples where L is their mean"),
        (1 / 20, "the mean over samples is taken twice"),
    ],
)
def test_the_hint_names_what_a_factor_means(factor, meaning, rng):
    net, X, y = problem(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng, batch=20)
    net.forward(X)
    net.backward(y)
    dW = [None, *(array * factor for array in net.dW[1:])]
    report = check_gradients(net, X, y, gradients=(dW, net.db))
    assert report.hint == f"Look first at layer 3, the nearest to the loss that is wrong: dW[3]: {meaning}."
    assert [row.ok for row in report] == [False, True] * 3


def test_gradients_that_are_not_finite_are_wrong(rng):
    net, X, y = problem(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng)
    net.forward(X)
    net.backward(y)
    db = [np.array(array) for array in net.db[1:]]
    db[0][2] = np.nan
    report = check_gradients(net, X, y, gradients=(net.dW, db))
    assert not report
    assert report.worst.label == "b[1]"
    assert report.worst.where == (2,)
    assert report.hint.endswith("db[1] is not finite.")


def test_of_a_large_array_a_sample_is_compared(rng):
    net = MLP([30, 20, 1], "tanh", random_state=0)
    X, y = rng.normal(size=(9, 30)), rng.normal(size=9)
    report = check_gradients(net, X, y, elements=25)
    assert [row.checked for row in report] == [25, 20, 20, 1]
    assert "W[1]: 25 of 600 elements, drawn at random." in str(report)
    assert check_gradients(net, X, y, elements=25) == report
    assert check_gradients(net, X, y, elements=25, random_state=1) != report


def test_derivatives_lost_in_rounding_are_called_so():
    # sigmoid'(25) is 1.4e-11
    net = MLP([1, 1, 1], ["sigmoid", "identity"], random_state=0).set_weights([[[0.0]], [[1.0]]], [[25.0], [0.0]])
    report = check_gradients(net, np.array([[1.0]]), np.array([3.0]))
    assert report
    assert [row.verdict for row in report] == ["too small to tell", "too small to tell", "ok", "ok"]


def test_the_network_is_left_as_it_was(rng):
    net, X, y = problem(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng)
    net.forward(X)
    net.backward(y)
    before, seen = net.parameters.copy(), net.dW[1]
    X.setflags(write=False)
    check_gradients(net, X, y)
    np.testing.assert_array_equal(net.parameters, before)
    assert net.dW[1] is seen


def test_the_table_reads_well(rng):
    net = MLP([2, 3, 1], [(np.square, lambda z, a: 2.002 * z), "identity"], random_state=0)
    text = repr(check_gradients(net, rng.normal(size=(8, 2)), rng.normal(size=8)))
    lines = text.splitlines()
    assert re.fullmatch(r"Gradient check, 8 samples, L = [\d.]+: WRONG: dW\[1\], db\[1\]", lines[0])
    assert lines[2].split() == ["largest", "|ours|", "|numerical|", "difference", "relative", "ratio"]
    assert lines[3].split()[0] == "dW[1]"
    assert lines[3].split()[-2:] == ["1.001", "WRONG"]
    assert lines[5].split()[-2:] == ["1", "ok"]
    assert max(map(len, lines)) <= 80


def test_arguments_that_do_not_fit_are_refused(rng):
    net = MLP([2, 3, 1], random_state=0)
    X, y = rng.normal(size=(8, 2)), rng.normal(size=8)
    with pytest.raises(TypeError, match=re.escape("an MLP or an estimator of xpmlp is needed here; got Network.")):
        check_gradients(net.network, X, y)
    with pytest.raises(ValueError, match=re.escape("step must be a finite number above 0; got 0.")):
        check_gradients(net, X, y, step=0)
    with pytest.raises(ValueError, match=re.escape("x must have shape (batch, 2) to enter this network; got (8, 1).")):
        check_gradients(net, X[:, :1], y)
    with pytest.raises(
        TypeError,
        match=re.escape(
            "gradients must be a pair (dW, db) of sequences, or (dW, db, others) with those of parts in a dict; "
            "got list."
        ),
    ):
        check_gradients(net, X, y, gradients=[1, 2])
    with pytest.raises(ValueError, match=re.escape("gradients must hold dW for each of the 2 layers; got 1.")):
        check_gradients(net, X, y, gradients=([np.zeros((2, 3))], [np.zeros(3)]))
    with pytest.raises(ValueError, match=re.escape("dW[1] must have shape (2, 3); got (3, 2).")):
        check_gradients(net, X, y, gradients=([np.zeros((3, 2)), np.zeros((3, 1))], [np.zeros(3), np.zeros(1)]))
    with pytest.raises(KeyError, match="no row"):
        check_gradients(net, X, y)["W", 3]


# --- It never cries wolf, and never sleeps ---

XOR, EITHER = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.0, 1, 1, 0])


def random_problem(seed):
    """A net as people have them, right in every line: (net, X, y, what kind of problem it is)."""
    rng = np.random.default_rng(seed)
    loss = list(LOSSES.values())[rng.integers(len(LOSSES))]
    outputs = [row for row in ACTIVATIONS.values() if loss.accepts(row.outputs)]
    output = outputs[rng.integers(len(outputs))] if rng.random() < 0.4 else ACTIVATIONS[loss.link or "identity"]
    hidden = [HIDDEN[i] for i in rng.integers(len(HIDDEN), size=rng.integers(2, 4))]
    while sum(row.name == "exp" for row in (*hidden, output)) > 1:  # exp of exp overflows
        hidden[[row.name for row in hidden].index("exp")] = ACTIVATIONS["tanh"]
    n_out = 1 if loss.name == "pinball" else int(rng.integers(2, 4))
    sizes = [int(rng.integers(1, 5)), *map(int, rng.integers(2, 7, size=len(hidden))), n_out]
    dtype = "float32" if rng.random() < 0.2 else "float64"
    net = MLP(sizes, [*hidden, output], loss, dtype=dtype, random_state=seed)
    n = int(rng.choice([4, 9, 16, 30]))
    X, y = rng.normal(size=(n, sizes[0])), rng.uniform(size=(n, n_out))
    if loss.targets == "distribution":
        y /= y.sum(axis=1, keepdims=True)
    kind = ["fresh", "biased", "trained", "tiny targets", "huge targets", "rows of zeros"][rng.integers(6)]
    if kind == "rows of zeros":
        X[rng.random(n) < 0.4] = 0.0
    if kind == "biased":
        net.parameters = (net.parameters + 0.1 * rng.normal(size=net.parameters.shape)).astype(dtype)
    if kind.endswith("targets") and loss.targets in ("real", "nonnegative"):
        y *= 1e-6 if kind.startswith("tiny") else 1e6
    X, y = X.astype(dtype), y.astype(dtype)
    if kind == "trained" and not {"exp"} & {row.name for row in (*hidden, output)}:
        net.fit(X, y, epochs=300, batch_size=None, learning_rate=0.02)
    return net, X, y, kind


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_no_right_network_is_called_wrong_and_no_factor_is_missed(first):
    # Of 4,000 such networks none was called wrong; of 3,800 factors of 1.001 planted in one array, none was missed.
    for seed in range(first, first + 10):
        net, X, y, kind = random_problem(seed)
        report = check_gradients(net, X, y)
        assert report, f"seed {seed}, {kind}\n{net}\n{report}"
        if kind in ("fresh", "biased", "rows of zeros"):
            assert not [row for row in report if row.undecided and row.ours != 0.0], f"seed {seed}\n{net}\n{report}"
        row = report.rows[seed % len(report.rows)]
        wide = MLP(list(net.layout.sizes), list(net.network.activations), net.network.loss)
        wide.parameters = net.parameters.astype("float64")
        X, y = X.astype("float64"), y.astype("float64")
        wide.forward(X)
        wide.backward(y)
        dW, db = list(wide.dW), list(wide.db)
        planted = dW if row.name == "W" else db
        planted[row.layer] = 1.001 * planted[row.layer]
        if row.ours >= 1000.0 * row.resolution:
            found = check_gradients(wide, X, y, gradients=(dW, db))
            assert [it.label for it in found if not it.ok] == [row.label], f"seed {seed}, {kind}\n{net}\n{found}"


@pytest.mark.parametrize("first", HIDDEN, ids=lambda row: row.name)
def test_a_row_of_zeros_on_biases_of_zero_is_no_false_alarm(first):
    for second in HIDDEN:
        net = MLP([2, 4, 4, 1], [first, second, "sigmoid"], "binary_cross_entropy", random_state=0)
        report = check_gradients(net, XOR, EITHER)
        assert report, f"{first} {second}\n{report}"
        kinked = bool(first.kinks) or (bool(second.kinks) and float(first.function(np.zeros(()))) == 0.0)
        assert report.on_kinks == kinked
        assert ("1 sample stands on a kink: right is what lies between its two sides." in str(report)) == kinked


@pytest.mark.parametrize("at_zero, ok", [(0.0, True), (0.5, True), (1.0, True), (1.5, False), (-0.2, False)])
def test_at_a_kink_a_derivative_between_the_two_sides_is_right(at_zero, ok):
    def relu(z):
        return array_namespace(z).maximum(z, 0.0 * z)

    def derivative(z, a):
        xp = array_namespace(z)
        return xp.where(z > 0, xp.ones_like(z), xp.where(z < 0, xp.zeros_like(z), at_zero * xp.ones_like(z)))

    net = MLP([2, 4, 1], [(relu, derivative), "sigmoid"], "binary_cross_entropy", random_state=0)
    assert check_gradients(net, XOR, EITHER).ok == ok
    if find_spec("mparray"):
        assert check_gradients(net, XOR, EITHER, digits=30).ok == ok


def test_a_derivative_wrong_away_from_a_kink_is_found_on_data_that_stands_on_one():
    wrong = dataclasses.replace(ACTIVATIONS["relu"], derivative=lambda z, a: 1.2 * (z > 0))
    for seed in range(5):
        net = MLP([2, 4, 4, 1], ["tanh", wrong, "sigmoid"], "binary_cross_entropy", random_state=seed)
        report = check_gradients(net, XOR, EITHER)
        alive = np.any(net.network.activations[1].function(np.tanh(XOR @ net.W[1]) @ net.W[2]) > 0)
        assert report.ok == (not alive)


def test_where_yhat_is_y_an_absolute_error_is_no_false_alarm():
    net = MLP([1, 1], ["identity"], "absolute_error", random_state=0).set_weights([[[1.0]]], [[0.0]])
    report = check_gradients(net, np.array([[1.0], [2.0], [3.0]]), np.array([1.0, 1.5, 2.0]))
    assert report
    assert report.on_kinks == 1


def test_derivatives_from_elsewhere_may_take_the_other_side_of_a_kink():
    # The gradient of relu with relu'(0) = 1, as some have it
    other = dataclasses.replace(ACTIVATIONS["relu"], derivative=lambda z, a: 1.0 * (z >= 0))
    theirs = MLP([2, 4, 1], [other, "sigmoid"], "binary_cross_entropy", random_state=0)
    theirs.forward(XOR)
    theirs.backward(EITHER)
    ours = MLP([2, 4, 1], ["relu", "sigmoid"], "binary_cross_entropy", random_state=0)
    assert check_gradients(ours, XOR, EITHER, gradients=(theirs.dW, theirs.db))


def test_nets_trained_to_their_optimum_are_no_false_alarm(rng):
    for seed in range(4):
        X = np.random.default_rng(seed).normal(size=(40, 2))
        options = {"activation": "tanh", "solver": "lbfgs", "alpha": 0.0, "tol": 1e-12, "max_iter": 500}
        clf = xpmlp.MLPClassifier((5,), **options, random_state=seed).fit(X, X[:, 0] > 0)
        report = check_gradients(clf, X, X[:, 0] > 0)
        assert report, str(report)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_targets_of_any_size_are_decided(size, rng):
    # A loss of size^2 is rounded to its own digits, which a step of 4e-6 makes 4e-11 size^2 of: longer ones are tried.
    net, X, y = MLP([3, 5, 4, 1], "tanh", random_state=0), rng.normal(size=(20, 3)), 1.0 + rng.normal(size=20)
    report = check_gradients(net, X, size * y)
    assert report
    assert not any(row.undecided for row in report), str(report)


def test_a_loss_that_overflows_is_told_and_called_neither_right_nor_wrong():
    net = MLP([1, 1, 1], ["exp", "exp"], random_state=0).set_weights([[[10.0]], [[10.0]]], [[0.0], [0.0]])
    report = check_gradients(net, np.array([[1.0]]), np.array([1.0]))
    assert [row.verdict for row in report] == ["cannot tell"] * 4


# --- Fitted estimators ---


@pytest.fixture
def labelled(rng):
    X = rng.normal(size=(40, 3))
    return X, np.array(["low", "middle", "high"])[np.digitize(X[:, 0] + X[:, 1], [-0.5, 0.5])]


@pytest.mark.parametrize("options", [{}, {"class_weight": "balanced"}, {"dtype": "float32"}, {"dropout": 0.2}])
def test_a_fitted_classifier_is_checked_with_its_labels(options, labelled, rng):
    X, y = labelled
    clf = xpmlp.MLPClassifier((6, 4), activation="tanh", alpha=1.0, max_iter=2, random_state=0, **options)
    with pytest.warns(ConvergenceWarning):
        clf.fit(X, y)
    w = rng.uniform(size=40)
    assert check_gradients(clf, X, y, tolerance=TIGHT)
    report = check_gradients(clf, X, y, w, tolerance=TIGHT)
    assert report
    assert [row.shape for row in report] == [(3, 6), (6,), (6, 4), (4,), (4, 3), (3,)]
    # L is the log loss of what it predicts, by the weights that it was fitted with
    if "class_weight" in options:
        w = w * compute_sample_weight("balanced", y)
    of_truth = clf.predict_proba(X)[np.arange(40), np.searchsorted(clf.classes_, y)]
    assert report.loss == pytest.approx(np.average(-np.log(of_truth), weights=w), rel=1e-5)


def test_a_fitted_regressor_is_checked(rng):
    X = rng.normal(size=(40, 3))
    reg = xpmlp.MLPRegressor(hidden_layer_sizes=(6,), max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        reg.fit(X, X[:, 0])
    assert check_gradients(reg, X, X[:, 0], tolerance=TIGHT)
    dW = [2.0 * np.ones_like(W) for W in reg.coefs_]
    assert not check_gradients(reg, X, X[:, 0], gradients=(dW, reg.intercepts_))


def test_an_estimator_that_was_not_fitted_is_refused(labelled):
    with pytest.raises(ValueError, match=re.escape("this MLPClassifier has no weights yet; call its fit first.")):
        check_gradients(xpmlp.MLPClassifier(), *labelled)


# --- To many digits ---


def precise(*arguments, digits=50, elements=6, **options):
    pytest.importorskip("mparray", reason="mparray (the extra `precision`) is not installed")
    return check_gradients(*arguments, digits=digits, elements=elements, **options)


def small(hidden, output, loss, rng, **options):
    net, X, y = problem(hidden, output, loss, rng, batch=3, **options)
    return net, X, y


@pytest.mark.parametrize("hidden", HIDDEN, ids=lambda row: row.name)
def test_every_activation_agrees_to_rounding(hidden, rng):
    report = precise(*small(hidden, ACTIVATIONS["identity"], LOSSES["squared_error"], rng))
    assert report
    assert report.worst.relative <= ROUNDING, str(report)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda row: row.name)
def test_every_loss_agrees_to_rounding_with_and_without_its_short_cut(loss, rng):
    output = ACTIVATIONS[loss.link or "identity"]
    for path in (loss, dataclasses.replace(loss, link=None)):
        report = precise(*small(ACTIVATIONS["tanh"], output, path, rng))
        assert report
        assert report.worst.relative <= ROUNDING, str(report)


@pytest.mark.parametrize("row", HIDDEN, ids=lambda row: row.name)
def test_to_many_digits_a_part_in_a_hundred_thousand_million_is_caught(row, rng):
    off = dataclasses.replace(row, derivative=lambda z, a: (1.0 + 1e-11) * row.derivative(z, a), pullback=None)
    net = MLP([2, 3, 2], [off, "identity"], random_state=0)
    X, y = rng.normal(size=(3, 2)), rng.normal(size=(3, 2))
    assert check_gradients(net, X, y)
    report = precise(net, X, y)
    assert [row.ok for row in report] == [False, False, True, True]
    assert report["W", 1].relative == pytest.approx(1e-11, rel=1e-3)


def test_the_digits_that_are_shown_are_right(rng):
    # dL/db of one linear unit is the mean of x w + b - y: fractions know it exactly.
    w, b, x, y = 0.1, 0.2, [0.3, 0.7, 1.1], [0.5, 0.9, -0.4]
    net = MLP([1, 1], ["identity"], random_state=0).set_weights([[[w]]], [[b]])
    exact = sum(Fraction(x_i) * Fraction(w) + Fraction(b) - Fraction(y_i) for x_i, y_i in zip(x, y, strict=True)) / 3
    with localcontext(prec=100):
        for digits in (20, 50, 80):
            row = precise(net, np.array(x)[:, None], np.array(y), digits=digits)["b", 1]
            shown, right = Decimal(row.digits_there), Decimal(exact.numerator) / Decimal(exact.denominator)
            assert abs(shown - right) <= abs(right) * Decimal(10) ** (1 - digits)
            assert row.ours_there == pytest.approx(float(exact), rel=1e-15)


def test_to_many_digits_kinks_weights_and_several_networks_take_part(rng):
    net = MLP([2, 4, 1], "relu", random_state=0)  # its biases are 0: for x = 0 every z[1] lies on the kink
    X, y = np.array([[0.0, 0.0], [1.0, -2.0], [0.5, 0.25]]), np.array([0.3, -0.4, 0.1])
    assert precise(net, X, y).worst.relative <= ROUNDING
    exact = MLP([1, 1], ["identity"], "absolute_error", random_state=0).set_weights([[[1.0]]], [[0.0]])
    assert precise(exact, np.array([[1.0], [2.0]]), np.array([0.5, 3.0]), np.array([1.0, 3.0]))
    several = small(ACTIVATIONS["tanh"], ACTIVATIONS["softmax"], LOSSES["cross_entropy"], rng, networks=2)
    report = precise(*several, np.array([1.0, 0.0, 2.0]))
    assert report.worst.relative <= ROUNDING
    assert len(report.worst.where) in (2, 3)


def test_a_converged_network_is_no_false_alarm():
    # yhat - y loses most of its digits here: what is left of a derivative is rounding, and is told apart from an error.
    net = MLP([1, 1], ["identity"], random_state=0).set_weights([[[0.1]]], [[0.3]])
    x = np.array([[0.1], [0.7], [1.3]])
    report = precise(net, x, 0.1 * x[:, 0] + 0.3)
    assert report, str(report)


def test_many_digits_stand_in_the_text(rng):
    net, X, y = small(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng)
    for digits in (30, 50, 200):
        report = precise(net, X, y, digits=digits)
        lines = str(report).splitlines()
        assert f"Numerical to {digits} digits. ok: relative <= 1e-12." in str(report)
        assert lines[-3].startswith(f"Furthest apart, d{report.worst.label} at [")
        ours, numerical = (line.split()[1] for line in lines[-2:])
        assert float(ours) == report.worst.ours_there
        assert numerical == report.worst.digits_there or (digits == 200 and "..." in numerical)
        assert float(report.worst.digits_there) == pytest.approx(float(ours), rel=1e-12)
        assert max(map(len, lines)) <= 80
    assert "Furthest" not in str(check_gradients(net, X, y))


def test_what_was_set_in_mpmath_is_left_alone(rng):
    mp = pytest.importorskip("mpmath").mp
    before = mp.dps
    precise(*small(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng))
    assert mp.dps == before


def test_without_mparray_it_says_what_to_install(monkeypatch, rng):
    monkeypatch.setitem(sys.modules, "mparray", None)
    net, X, y = small(ACTIVATIONS["tanh"], ACTIVATIONS["identity"], LOSSES["squared_error"], rng)
    cure = "check_gradients with digits= needs mparray; install it with pip install 'mparray>=0.2.2'."
    with pytest.raises(ImportError, match=re.escape(cure)):
        check_gradients(net, X, y, digits=50)


def test_what_many_digits_are_not_for_is_refused(rng):
    with pytest.raises(ValueError, match=re.escape("this check would take about 114 million products one by one")):
        precise(MLP([64, 100, 10], random_state=0), rng.normal(size=(600, 64)), rng.normal(size=(600, 10)))
    net = MLP([2, 3, 1], [(np.tanh, lambda z, a: 1 - a * a), "identity"], random_state=0)
    X, y = rng.normal(size=(4, 2)), rng.normal(size=4)
    with pytest.raises(
        TypeError, match=r"digits=50 runs the network on mparray's arrays, .* Write functions of your own"
    ):
        precise(net, X, y)
    with pytest.raises(ValueError, match=re.escape("digits must be a whole number of at least 20; got 10.")):
        precise(net, X, y, digits=10)


# --- The judge of an exercise: a published class with three wrong lines, and two slips of its text ---

SUM, MEAN_DB, DOUBLED, SIGN, SAME_LAYER = "no 1/n", "db a mean", "sigmoid' doubled", "the sign", "a[k] for a[k-1]"
N = 20


def published(net, y, wrong):
    """The class's backward pass with these lines wrong; 3-3-3-3 sigmoids, so that even a[k].T @ dz[k] has a shape."""
    a, W = net.a, net.W
    dW, db = [None] * 4, [None] * 4
    da = 2 * (y - a[3] if SIGN in wrong else a[3] - y) / (1 if SUM in wrong else N)
    for k in (3, 2, 1):
        dz = da * a[k] * (1 - a[k]) * (2 if DOUBLED in wrong and k == 3 else 1)
        dW[k] = a[k if SAME_LAYER in wrong else k - 1].T @ dz
        db[k] = dz.mean(axis=0) if MEAN_DB in wrong else dz.sum(axis=0)
        da = dz @ W[k].T
    return dW, db


SUM_MEANS, TWICE = "it is a sum over samples where L is their mean", "the mean over samples is taken twice"


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({SUM}, f"dW[3]: {SUM_MEANS}."),
        ({MEAN_DB}, f"db[3]: {TWICE}."),
        ({DOUBLED}, "dW[3]: it is doubled."),
        ({SIGN}, "dW[3]: its sign is wrong."),
        ({SAME_LAYER}, "dW[3]: it is a[3].T @ dz[3], where a[2].T belongs."),
        ({SUM, MEAN_DB, DOUBLED}, f"dW[3]: it is doubled, and {SUM_MEANS} (40 times the numerical one); "
         "db[3]: it is doubled."),
        ({SUM, MEAN_DB, DOUBLED, SIGN, SAME_LAYER}, "dW[3]: it is -40 times a[3].T @ dz[3], where a[2].T belongs: its "
         f"sign is wrong, it is doubled, and {SUM_MEANS}; db[3]: its sign is wrong, and it is doubled (-2 times the "
         "numerical one)."),
    ],
    ids=lambda it: " + ".join(sorted(it)) if isinstance(it, set) else "",
)  # fmt: skip
def test_the_judge_names_layer_array_and_factor_of_every_published_fault(wrong, told, rng):
    net = MLP([3, 3, 3, 3], ["sigmoid"] * 3, "sum_of_squares", random_state=0)
    X, y = rng.normal(size=(N, 3)), rng.uniform(size=(N, 3))
    net.forward(X)
    report = check_gradients(net, X, y, gradients=published(net, y, wrong))
    assert report.hint == f"Look first at layer 3, the nearest to the loss that is wrong: {told}"
    assert check_gradients(net, X, y, gradients=published(net, y, set()))


def test_the_judge_finds_a_wrong_line_in_the_middle_too(rng):
    net = MLP([3, 3, 3, 3], ["sigmoid"] * 3, "sum_of_squares", random_state=0)
    X, y = rng.normal(size=(N, 3)), rng.uniform(size=(N, 3))
    net.forward(X)
    dW, db = published(net, y, set())
    slipped, _ = published(net, y, {SAME_LAYER})
    report = check_gradients(net, X, y, gradients=([None, dW[1], slipped[2], dW[3]], db))
    assert report.hint.endswith("dW[2]: it is a[2].T @ dz[2], where a[1].T belongs.")
    assert [row.slip != "" for row in report] == [False, False, True, False, False, False]
