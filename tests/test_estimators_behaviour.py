"""How the estimators behave: what scikit-learn's tests of its own MLP pin down, in our words, and what they leave."""

from __future__ import annotations

import re
import signal
import threading

import numpy as np
import pytest
import sklearn.neural_network as theirs
from scipy import sparse
from sklearn.datasets import (
    load_digits,
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import MinMaxScaler, scale

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.estimators.splitting import rows_of

BOTH = pytest.mark.parametrize("Estimator", [MLPClassifier, MLPRegressor])
quiet = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]


def digits(n_class):
    X, y = load_digits(n_class=n_class, return_X_y=True)
    return MinMaxScaler().fit_transform(X[:200]), y[:200]


def regression():
    X, y = make_regression(200, 10, bias=20.0, noise=100.0, random_state=7)
    return X, scale(y)


IRIS = load_iris(return_X_y=True)


def test_one_step_worked_by_hand():
    # One sample, two logistic hidden units, one output; every digit can be checked with a pocket calculator.
    clf = MLPClassifier(
        2, "logistic", solver="sgd", learning_rate_init=0.1, alpha=0.1, momentum=0, max_iter=1, random_state=1
    )
    clf.coefs_ = [np.array([[0.1, 0.2], [0.3, 0.1], [0.5, 0.0]]), np.array([[0.1], [0.2]])]
    clf.intercepts_ = [np.array([0.1, 0.1]), np.array([1.0])]
    clf.partial_fit(np.array([[0.6, 0.8, 0.7]]), np.array([0]), classes=[0, 1])
    # a = s(0.75), s(0.3); yhat = s(0.1 a1 + 0.2 a2 + 1); dz[2] = yhat - 0; dz[1] = dz[2] W[2] a (1 - a)
    a = 1 / (1 + np.exp(-np.array([0.6 * 0.1 + 0.8 * 0.3 + 0.7 * 0.5 + 0.1, 0.6 * 0.2 + 0.8 * 0.1 + 0.1])))
    dz2 = 1 / (1 + np.exp(-(0.1 * a[0] + 0.2 * a[1] + 1.0)))
    dz1 = dz2 * np.array([0.1, 0.2]) * a * (1 - a)
    np.testing.assert_allclose(clf.intercepts_[1], [1.0 - 0.1 * dz2])
    np.testing.assert_allclose(clf.intercepts_[0], 0.1 - 0.1 * dz1)
    np.testing.assert_allclose(clf.coefs_[1][:, 0], [0.1 - 0.1 * (a[0] * dz2 + 0.01), 0.2 - 0.1 * (a[1] * dz2 + 0.02)])
    np.testing.assert_allclose(clf.coefs_[0][0], [0.1 - 0.1 * (0.6 * dz1[0] + 0.01), 0.2 - 0.1 * (0.6 * dz1[1] + 0.02)])
    assert clf.predict_proba(np.array([[0.6, 0.8, 0.7]]))[0, 1] == pytest.approx(0.739, abs=1e-3)


@quiet
def test_a_larger_alpha_makes_smaller_weights():
    X, y = digits(2)
    size = [
        sum(np.abs(w).sum() for w in MLPClassifier(10, alpha=alpha, random_state=1).fit(X, y).coefs_)
        for alpha in (0, 1)
    ]
    assert size[0] > size[1]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_class", [2, 3])
def test_lbfgs_learns_digits_and_keeps_to_its_calls(activation, n_class):
    X, y = digits(n_class)
    options = {
        "solver": "lbfgs",
        "hidden_layer_sizes": 50,
        "max_iter": 150,
        "random_state": 1,
        "activation": activation,
    }
    clf = MLPClassifier(**options).fit(X[:150], y[:150])
    assert clf.score(X[:150], y[:150]) > 0.95
    assert clf.predict(X[150:]).dtype.kind == y.dtype.kind
    assert not hasattr(clf, "loss_curve_")
    assert clf.t_ == 0
    with pytest.warns(ConvergenceWarning, match="max_fun"):
        assert MLPClassifier(max_fun=10, **options).fit(X, y).n_iter_ <= 10


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lbfgs_learns_a_regression(activation):
    X, y = regression()
    options = {
        "solver": "lbfgs",
        "hidden_layer_sizes": 50,
        "max_iter": 200,
        "random_state": 1,
        "activation": activation,
    }
    assert MLPRegressor(tol=1e-3, **options).fit(X, y).score(X, y) > (0.8 if activation == "identity" else 0.98)
    with pytest.warns(ConvergenceWarning):
        assert MLPRegressor(tol=0.0, max_fun=10, **options).fit(X, y).n_iter_ <= 10


@quiet
def test_several_labels():
    X, y = make_multilabel_classification(n_samples=50, random_state=0, return_indicator=True)
    clf = MLPClassifier(50, "logistic", solver="lbfgs", alpha=1e-5, max_iter=150, random_state=0).fit(X, y)
    assert clf.score(X, y) > 0.97
    assert clf.out_activation_ == "logistic"
    assert abs(clf.predict_proba(X).sum(axis=1) - 1.0).max() > 1e-3  # the labels do not compete
    clf = MLPClassifier(50, "logistic", solver="sgd", alpha=1e-5, learning_rate_init=0.2, random_state=0)
    for _ in range(100):
        clf.partial_fit(X, y, classes=[0, 1, 2, 3, 4])
    assert clf.score(X, y) > 0.9
    MLPClassifier(early_stopping=True).fit(X, y).predict(X)
    assert MLPClassifier(max_iter=2).fit(X, sparse.csr_matrix(y)).predict(X).shape == y.shape


def test_several_outputs():
    X, y = make_regression(200, n_targets=5, random_state=11)
    reg = MLPRegressor(hidden_layer_sizes=50, solver="lbfgs", max_iter=200, tol=1e-2, random_state=1).fit(X, y)
    assert reg.score(X, y) > 0.9
    assert reg.predict(X).shape == (200, 5)


@quiet
@pytest.mark.parametrize("n_class", [2, 3])
def test_a_hundred_partial_fits_are_a_fit(n_class):
    X, y = digits(n_class)
    options = {"solver": "sgd", "random_state": 1, "alpha": 1e-5, "learning_rate_init": 0.2}
    whole = MLPClassifier(max_iter=100, tol=0, **options).fit(X, y)
    parts = MLPClassifier(**options)
    for _ in range(100):
        parts.partial_fit(X, y, classes=np.unique(y))
    np.testing.assert_array_equal(whole.predict(X), parts.predict(X))


@quiet
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_a_hundred_partial_fits_are_a_regression(momentum):
    X, y = regression()
    options = {"solver": "sgd", "random_state": 1, "learning_rate_init": 0.01, "batch_size": 200, "momentum": momentum}
    whole, parts = MLPRegressor(max_iter=100, **options).fit(X, y), MLPRegressor(**options)
    for _ in range(100):
        parts.partial_fit(X, y)
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-7)


def test_classes_that_come_later():
    clf = MLPClassifier(random_state=0)
    clf.partial_fit([[1], [2], [3]], ["a", "b", "c"], classes=["a", "b", "c", "d"])
    clf.partial_fit([[4]], ["d"])
    assert clf.score([[1], [2], [3], [4]], ["a", "b", "c", "d"]) > 0
    assert clf.predict_proba([[1]]).shape == (1, 4)


@pytest.mark.parametrize("n_class", [2, 3])
@quiet
def test_probabilities(n_class):
    X, y = digits(n_class)
    clf = MLPClassifier(5, activation="logistic", random_state=1).fit(X, y)
    p = clf.predict_proba(X)
    assert p.shape == (200, n_class)
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(p))
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[p.argmax(axis=1)])
    if n_class == 2:
        assert roc_auc_score(y, p[:, 1]) > 0.999


def test_one_class_alone_is_certain():
    clf = MLPClassifier(max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        clf.fit([[1.0], [2.0]], ["only", "only"])
    assert clf.predict([[3.0]]).tolist() == ["only"]
    # Two columns, as scikit-learn's: that class, and any other.
    np.testing.assert_allclose(clf.predict_proba([[3.0]]).sum(axis=1), 1.0, rtol=1e-12)
    other = theirs.MLPClassifier(max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning):
        other.fit([[1.0], [2.0]], ["only", "only"])
    for method in ("predict_proba", "predict_log_proba"):
        ours, expected = (getattr(model, method)([[3.0], [-8.0]]) for model in (clf, other))
        np.testing.assert_allclose(ours, expected, rtol=1e-9)
    begun = MLPClassifier(max_iter=2, random_state=0).partial_fit([[1.0], [2.0]], [7, 7], classes=[7])
    assert begun.predict_proba([[3.0]]).shape == (1, 2)
    assert begun.input_gradients([[3.0]]).shape == (1, 1)


@quiet
def test_the_same_seed_is_the_same_model_and_shuffling_matters():
    X, y = make_regression(50, 5, random_state=0)
    options = {"hidden_layer_sizes": 1, "max_iter": 1, "batch_size": 1, "random_state": 0}

    def first(shuffle):
        return MLPRegressor(shuffle=shuffle, **options).fit(X, y).coefs_[0]

    for shuffle in (True, False):
        np.testing.assert_array_equal(first(shuffle), first(shuffle))
    assert not np.array_equal(first(True), first(False))


@quiet
def test_a_random_state_object_is_drawn_from():
    X, y = IRIS
    rng = np.random.RandomState(0)
    first = MLPClassifier(max_iter=1, random_state=rng).fit(X, y)
    second = MLPClassifier(max_iter=1, random_state=rng).fit(X, y)
    assert not np.array_equal(first.coefs_[0], second.coefs_[0])


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@quiet
def test_the_dtype_of_x_is_kept(Estimator, dtype):
    X, y = IRIS
    model = (
        Estimator((5, 3), max_iter=10, random_state=1) if Estimator is MLPClassifier else Estimator("squared_error", 5)
    )
    model.fit(X.astype(dtype), y)
    assert all(w.dtype == dtype for w in model.coefs_ + model.intercepts_)
    answer = model.predict_proba(X) if Estimator is MLPClassifier else model.predict(X.astype(dtype))
    assert answer.dtype == dtype


@quiet
def test_float32_is_float64_but_for_rounding():
    X, y = load_digits(return_X_y=True)
    options = {"alpha": 1e-5, "hidden_layer_sizes": (5, 3), "random_state": 1, "max_iter": 100, "tol": 0.1}
    wide = MLPClassifier(**options).fit(X[:300], y[:300])
    narrow = MLPClassifier(**options).fit(X[:300].astype(np.float32), y[:300])
    np.testing.assert_allclose(narrow.predict_proba(X[300:]), wide.predict_proba(X[300:]), rtol=1e-2)
    assert MLPRegressor(max_iter=2).fit(X.astype(np.float16), y).coefs_[0].dtype == np.float64


@BOTH
def test_early_stopping_watches_the_score_and_ends_with_the_best(Estimator):
    X, y = digits(2)
    model = Estimator(tol=0.2, max_iter=3000, solver="sgd", early_stopping=True, random_state=0).fit(X[:100], y[:100])
    assert model.n_iter_ < 3000
    assert model.best_loss_ is None
    assert max(model.validation_scores_) == model.best_validation_score_
    assert len(model.validation_loss_curve_) == len(model.validation_scores_) == model.n_iter_
    assert model.t_ == 90 * model.n_iter_  # without what was held out
    plain = Estimator(tol=0.2, max_iter=3000, solver="sgd").fit(X[:100], y[:100])
    assert plain.validation_scores_ is None
    assert plain.validation_loss_curve_ is None
    assert plain.best_validation_score_ is None
    assert isinstance(plain.best_loss_, float)


def test_the_best_weights_come_back():
    X, y = IRIS
    rng = np.random.default_rng(0)
    X_val, y_val = X + rng.normal(0, 0.3, X.shape), y
    seen = []

    def remember(estimator, epoch, logs):
        seen.append((logs["validation_score"], [w.copy() for w in estimator.coefs_]))

    clf = MLPClassifier(
        20,
        learning_rate_init=0.05,
        early_stopping=True,
        max_iter=40,
        n_iter_no_change=5,
        random_state=0,
        callbacks=remember,
    )
    clf.fit(X, y, X_val=X_val, y_val=y_val)
    best = max(range(len(seen)), key=lambda epoch: seen[epoch][0])
    np.testing.assert_array_equal(clf.coefs_[0], seen[best][1][0])
    assert clf.score(X_val, y_val) == clf.best_validation_score_ == max(clf.validation_scores_)


def test_the_split_keeps_the_shares_of_two_and_of_many_classes():
    for shares in ([60, 40], [50, 30, 20]):
        strata = np.repeat(np.arange(len(shares)), shares)
        train, held = rows_of(strata, 100, 0.1, np.random.RandomState(0))
        assert sorted([*train, *held]) == list(range(100))
        np.testing.assert_array_equal(np.bincount(strata[held]), np.divide(shares, 10))


@pytest.mark.parametrize("seed", range(40))
def test_a_split_that_keeps_shares_is_scikit_learns(seed):
    here = np.random.default_rng(seed)
    n, n_strata, fraction = int(here.integers(50, 400)), int(here.integers(2, 6)), float(here.choice([0.1, 0.25, 0.5]))
    strata = np.concatenate([np.repeat(np.arange(n_strata), 2), here.integers(n_strata, size=n)])
    ours, theirs = np.random.RandomState(seed), np.random.RandomState(seed)
    expected = train_test_split(np.arange(len(strata)), random_state=theirs, test_size=fraction, stratify=strata)
    for found, rows in zip(rows_of(strata, len(strata), fraction, ours), expected, strict=True):
        np.testing.assert_array_equal(found, rows)
    assert ours.random_sample() == theirs.random_sample()  # and it has drawn as much


def test_the_only_sample_of_a_class_is_trained_on_and_many_classes_are_drawn_from_as_they_come():
    strata = np.array([0] * 20 + [1] * 19 + [2])
    for seed in range(20):
        train, held = rows_of(strata, 40, 0.1, np.random.RandomState(seed))
        assert 39 in train
        np.testing.assert_array_equal(np.bincount(strata[held]), [2, 2])
    for strata in (np.arange(50) // 2, np.arange(50)):  # more classes than samples to hold out
        train, held = rows_of(strata, 50, 0.1, np.random.RandomState(0))
        unaware = train_test_split(np.arange(50), random_state=np.random.RandomState(0), test_size=0.1)
        np.testing.assert_array_equal(train, unaware[0])
        np.testing.assert_array_equal(held, unaware[1])


def test_a_validation_set_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True, random_state=0).fit([[0.0], [1.0]], [0.0, 1.0])


@quiet
def test_early_stopping_takes_labels_that_are_strings():
    X, y = make_classification(200, 10, n_classes=3, n_informative=5, random_state=42)
    labels = np.array(["class_a", "class_b", "class_c"], dtype=object)[y]
    clf = MLPClassifier(early_stopping=True, max_iter=20, random_state=42).fit(X, labels)
    assert np.isfinite(clf.validation_scores_).all()
    assert set(clf.predict(X)) <= set(labels)


@pytest.mark.parametrize("patience", [2, 5, 20])
def test_patience_is_counted_as_in_scikit_learn(patience):
    X, y = digits(2)
    clf = MLPClassifier(tol=1e9, max_iter=3000, solver="sgd", n_iter_no_change=patience).fit(X[:100], y[:100])
    assert clf.n_iter_ == patience + 2  # one that is the first, and one more than it may bear


@quiet
def test_endless_patience():
    X, y = IRIS
    assert MLPClassifier(2, tol=1e9, max_iter=50, n_iter_no_change=np.inf).fit(X, y).n_iter_ == 50


def test_adaptive_lowers_the_rate_until_it_is_nothing():
    rates = []
    clf = MLPClassifier(
        tol=0.5,
        max_iter=3000,
        solver="sgd",
        learning_rate="adaptive",
        callbacks=lambda _, __, logs: rates.append(logs["learning_rate"]),
    )
    clf.fit([[3, 2], [1, 6]], [1, 0])
    assert clf.n_iter_ < 3000
    assert rates[-1] <= 1e-6
    np.testing.assert_allclose(sorted(set(rates), reverse=True), [1e-3 / 5**k for k in range(len(set(rates)))])


@quiet
def test_invscaling_goes_on_from_the_samples_seen_once_the_new_optimizer_has_begun_at_the_full_rate():
    rates = []
    clf = MLPClassifier(
        4,
        solver="sgd",
        learning_rate="invscaling",
        power_t=0.25,
        max_iter=2,
        warm_start=True,
        callbacks=lambda _, __, logs: rates.append(logs["learning_rate"]),
    )
    for _ in range(3):
        clf.fit([[3, 2], [1, 6], [5, 6], [-2, -4]], [1, 1, 1, 0])
    np.testing.assert_allclose(rates, [1e-3 / (1 + t) ** 0.25 for t in (0, 4, 0, 12, 0, 20)])


@BOTH
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_a_warm_start_has_its_whole_max_iter(Estimator, solver):
    X, y = IRIS
    model = Estimator(solver=solver, warm_start=True, max_iter=10, n_iter_no_change=np.inf, random_state=0, tol=0)
    for max_iter in (10, 20):
        with pytest.warns(ConvergenceWarning):
            model.set_params(max_iter=max_iter).fit(X, y)
        assert model.n_iter_ == max_iter


@quiet
def test_a_warm_start_needs_the_same_classes():
    X, y = IRIS
    clf = MLPClassifier(2, solver="lbfgs", warm_start=True, random_state=42, tol=1e-2).fit(X, y)
    clf.fit(X, np.roll(y, 10))
    for other in (np.repeat([0, 1], 75), np.repeat([0, 1, 3], 50), np.repeat([0, 1, 2, 3, 4], 30)):
        message = (
            "warm_start can only be used where `y` has the same classes as in the previous call to fit."
            f" Previously got [0 1 2], `y` has {np.unique(other)}"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            clf.fit(X, other)


@BOTH
@quiet
def test_histories_grow_over_warm_starts(Estimator):
    X, y = IRIS
    model = Estimator(max_iter=10, random_state=0, warm_start=True, early_stopping=True).fit(X, y)
    before = len(model.validation_scores_)
    model.set_params(max_iter=20).fit(X, y)
    assert len(model.validation_scores_) > before
    assert len(model.validation_scores_) == len(model.loss_curve_) == len(model.validation_loss_curve_)


def test_verbose_prints_scikit_learns_lines(capsys):
    clf = MLPClassifier(2, solver="sgd", max_iter=2, verbose=10)
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        clf.fit([[3, 2], [1, 6]], [1, 0])
    clf.partial_fit([[3, 2], [1, 6]], [1, 0])
    out = capsys.readouterr().out
    assert f"Iteration 1, loss = {clf.loss_curve_[0]:.8f}" in out
    X, y = IRIS
    clf = MLPClassifier(verbose=True, early_stopping=True, tol=10.0, n_iter_no_change=2, random_state=0).fit(X, y)
    out = capsys.readouterr().out
    assert f"Validation score: {clf.validation_scores_[0]:f}" in out
    assert "Validation score did not improve more than tol=10.000000 for 2 consecutive epochs. Stopping." in out
    MLPClassifier(
        verbose=True, solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=2, random_state=0
    ).fit(X, y)
    out = capsys.readouterr().out
    assert (
        "Training loss did not improve more than tol=10.000000 for 2 consecutive epochs. Setting learning rate to"
        in out
    )


def test_numbers_that_are_not_finite_end_a_fit_and_spare_the_model():
    X, y = IRIS
    reg = MLPRegressor(solver="lbfgs", max_iter=20, random_state=0)
    with pytest.warns(ConvergenceWarning):
        reg.fit(X, y)
    expected = reg.predict(X)
    reg.set_params(solver="sgd", learning_rate_init=1e6)
    with pytest.raises(xpmlp.DivergenceError) as caught:
        reg.fit(X * 1e6, y)
    text = str(caught.value)
    assert text.startswith("Solver produced non-finite parameter weights. The input data may contain large values and")
    assert re.search(r"diverged in epoch \d+: (layer|the loss)", text)
    assert "Lower the learning rate" in text
    np.testing.assert_array_equal(reg.predict(X), expected)
    huge = np.finfo(float).max * np.random.RandomState(0).uniform(size=(10, 2))
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
        MLPRegressor().fit(huge, np.arange(10.0))


def test_with_early_stopping_divergence_ends_with_a_warning_and_the_best_weights():
    X, y = IRIS
    options = {"activation": "identity", "solver": "sgd", "learning_rate_init": 1, "max_iter": 20, "random_state": 0}
    reg = MLPRegressor(early_stopping=True, **options)
    with pytest.warns(xpmlp.DivergenceWarning, match="best finite weights were put back"):
        reg.fit(X, y)
    assert isinstance(reg.validation_scores_[-1], float)
    assert np.isnan(reg.validation_scores_[-1])
    assert np.isfinite(reg.predict(X)).all()


def test_partial_fit_and_early_stopping_do_not_go_together():
    X, y = IRIS
    model = MLPClassifier(early_stopping=True, random_state=0, tol=1.0).fit(X, y)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        model.partial_fit(X, y)


def test_poisson_without_a_hidden_layer_is_the_generalised_linear_model():
    rng = np.random.default_rng(1)
    X = np.linspace(0, 1, 100).reshape(-1, 1)
    y = rng.poisson(np.exp(X[:, 0] + 1))
    glm = PoissonRegressor(alpha=0, tol=1e-7).fit(X, y)
    ours = MLPRegressor("poisson", (), alpha=0, solver="lbfgs", tol=1e-7, random_state=0).fit(X, y)
    np.testing.assert_allclose(ours.predict(X), glm.predict(X), rtol=1e-4)
    assert ours.out_activation_ == "exp"


def test_weights_of_one_are_no_weights():
    X, y = make_regression(100, 2, random_state=42)
    options = {"hidden_layer_sizes": 10, "early_stopping": True, "tol": 1e-2, "batch_size": 10, "random_state": 42}
    weighted = MLPRegressor(**options).fit(X, y, np.ones(100))
    np.testing.assert_allclose(weighted.predict(X), MLPRegressor(**options).fit(X, y).predict(X))


@quiet
def test_a_column_of_targets_is_flattened_with_a_warning():
    with pytest.warns(DataConversionWarning):
        reg = MLPRegressor(max_iter=1).fit([[0.0], [1.0]], [[0.0], [1.0]])
    assert reg.predict([[0.0]]).shape == (1,)


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_ctrl_c_keeps_what_was_learned():
    X, y = IRIS

    def interrupt(estimator, epoch, logs):
        if epoch == 3:
            signal.raise_signal(signal.SIGINT)

    clf = MLPClassifier(5, max_iter=50, random_state=0, callbacks=[interrupt])
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        clf.fit(X, y)
    assert clf.n_iter_ == len(clf.loss_curve_) == 3
    clf.predict(X)
