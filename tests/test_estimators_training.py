"""Class weights, validation sets, scorers, callbacks, quantiles: what the estimators add, and what it means."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_iris
from sklearn.metrics import balanced_accuracy_score, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.utils.class_weight import compute_sample_weight

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.estimators import classes

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 3))
RARE = (X[:, 0] + 0.5 * X[:, 1] > 1.2).astype(int)
NUMBERS = np.sin(X[:, 0]) + X[:, 1]
# Full batch in the order given, so that repetition changes neither batches nor draws.
FULL = {"hidden_layer_sizes": 6, "batch_size": 10_000, "shuffle": False, "random_state": 0, "max_iter": 15}
SOLVERS = ["adam", "sgd", "lbfgs", "adamw", "rmsprop", "lion"]


def full(Estimator, **options):
    return Estimator(**{**FULL, **options})


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_is_a_repetition(solver):
    w = RNG.integers(0, 4, len(X))
    again = np.repeat(np.arange(len(X)), w)
    for Estimator, y in ((MLPClassifier, RARE), (MLPRegressor, NUMBERS)):
        weighted = full(Estimator, solver=solver, alpha=0.1).fit(X, y, w)
        repeated = full(Estimator, solver=solver, alpha=0.1).fit(X[again], y[again])
        assert weighted.loss_ == pytest.approx(repeated.loss_, rel=1e-6)
        np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_class_weight_is_a_repetition_of_the_class(solver):
    again = np.concatenate([np.arange(len(X)), *[np.flatnonzero(RARE)] * 4])
    weighted = full(MLPClassifier, solver=solver, class_weight={1: 5.0}).fit(X, RARE)
    repeated = full(MLPClassifier, solver=solver).fit(X[again], RARE[again])
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_balanced_is_scikit_learns_and_multiplies_the_sample_weights():
    w = compute_sample_weight("balanced", RARE)
    ours = full(MLPClassifier, class_weight="balanced").fit(X, RARE)
    by_hand = full(MLPClassifier).fit(X, RARE, w)
    np.testing.assert_allclose(ours.predict_proba(X), by_hand.predict_proba(X))
    some = RNG.integers(0, 3, len(X)).astype(float)
    again = np.repeat(np.arange(len(X)), some.astype(int))
    ours = full(MLPClassifier, class_weight="balanced").fit(X, RARE, some)
    repeated = full(MLPClassifier, class_weight="balanced").fit(X[again], RARE[again])
    np.testing.assert_allclose(ours.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Got `batch_size`")
def test_class_weights_that_are_forgotten_are_noticed(monkeypatch):
    true = classes.weigh
    monkeypatch.setattr(classes, "weigh", lambda weights, labels, y, w: w)
    with pytest.raises(AssertionError):
        test_balanced_is_scikit_learns_and_multiplies_the_sample_weights()
    assert classes.weigh is not true


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_a_batch_that_weighs_nothing_does_no_harm(backend, alpha):
    w = np.ones(len(X))
    w[:30] = 0.0
    options = {"hidden_layer_sizes": 4, "batch_size": 30, "shuffle": False, "max_iter": 2, "random_state": 0}
    options |= {"solver": "sgd", "momentum": 0, "alpha": alpha, "backend": backend.name}
    for Estimator, y in ((MLPClassifier, RARE), (MLPRegressor, NUMBERS)):
        model = Estimator(**options, device=backend.place.device_name, dtype=backend.dtypes[0]).fit(X, y, w)
        without = Estimator(**options, device=backend.place.device_name, dtype=backend.dtypes[0]).fit(X[30:], y[30:])
        np.testing.assert_allclose(model.loss_curve_, without.loss_curve_, rtol=1e-5)
        np.testing.assert_allclose(model.predict(X), without.predict(X), rtol=1e-5, atol=1e-6)


def test_weights_count_in_what_early_stopping_watches():
    model = MLPClassifier(4, early_stopping=True, max_iter=2, random_state=0, class_weight={0: 1.0, 1: 9.0})
    model.fit(X, RARE, X_val=X, y_val=RARE, sample_weight_val=np.linspace(0.1, 1.0, 90))
    seen = []
    model.set_params(callbacks=lambda estimator, _, logs: seen.append((estimator.predict(X), logs["validation_score"])))
    model.fit(X, RARE, X_val=X, y_val=RARE, sample_weight_val=np.linspace(0.1, 1.0, 90))
    w = np.linspace(0.1, 1.0, 90) * np.where(RARE, 9.0, 1.0)
    for predicted, score in seen:
        assert score == pytest.approx(np.average(predicted == RARE, weights=w))


def test_a_validation_set_is_watched_and_recorded():
    model = MLPRegressor(hidden_layer_sizes=8, max_iter=5, random_state=0)
    model.fit(X[:60], NUMBERS[:60], X_val=X[60:], y_val=NUMBERS[60:])
    assert model.validation_loss_curve_[-1] == pytest.approx(0.5 * np.mean((model.predict(X[60:]) - NUMBERS[60:]) ** 2))
    assert model.validation_scores_[-1] == pytest.approx(model.score(X[60:], NUMBERS[60:]))
    assert model.best_validation_score_ is None  # looked at, and nothing decided by it
    plain = MLPRegressor(hidden_layer_sizes=8, max_iter=5, random_state=0).fit(X[:60], NUMBERS[:60])
    np.testing.assert_array_equal(plain.coefs_[0], model.coefs_[0])
    lbfgs = MLPRegressor(hidden_layer_sizes=8, max_iter=5, solver="lbfgs", random_state=0)
    lbfgs.fit(X[:60], NUMBERS[:60], X_val=X[60:], y_val=NUMBERS[60:])
    assert len(lbfgs.validation_loss_curve_) == lbfgs.n_iter_


@pytest.mark.parametrize("scoring", ["balanced_accuracy", make_scorer(balanced_accuracy_score), "roc_auc", "loss"])
def test_early_stopping_watches_what_it_is_told(scoring):
    model = MLPClassifier(8, early_stopping=True, scoring=scoring, max_iter=8, random_state=0, learning_rate_init=0.02)
    model.fit(X[:60], RARE[:60], X_val=X[60:], y_val=RARE[60:])
    if scoring == "loss":
        np.testing.assert_allclose(model.validation_scores_, np.negative(model.validation_loss_curve_))
    elif scoring != "roc_auc":
        assert model.best_validation_score_ == balanced_accuracy_score(RARE[60:], model.predict(X[60:]))
    assert model.best_validation_score_ == max(model.validation_scores_)


def test_callbacks_see_a_model_that_predicts_and_may_stop_it():
    scores = []

    def watch(estimator, epoch, logs):
        assert estimator.n_iter_ == epoch
        assert logs.keys() == {"loss", "learning_rate"}
        scores.append(estimator.score(X, NUMBERS))
        return epoch == 4

    model = MLPRegressor(hidden_layer_sizes=8, max_iter=50, random_state=0, callbacks=[watch, lambda *_: None])
    model.fit(X, NUMBERS)
    assert model.n_iter_ == len(scores) == 4
    assert model.score(X, NUMBERS) == scores[-1]


def test_max_time_ends_a_fit_early():
    model = MLPClassifier(4, max_time=1e-9, random_state=0).fit(X, RARE)
    assert model.n_iter_ == 1


class Recorder:
    """A callback after scikit-learn's protocol."""

    def __init__(self, stop_after=None):
        self.begun, self.ended, self.stop_after, self.scores = 0, 0, stop_after, []

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.torn_down = True

    def on_fit_task_begin(self, estimator, context):
        self.begun += 1

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        self.ended += 1
        if context.task_name == "epoch" and fitted_estimator is not None:
            self.scores.append(fitted_estimator.score(X, y))
        return context.task_id == self.stop_after and context.task_name == "epoch"


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_scikit_learns_callbacks_see_each_epoch_and_may_stop(solver):
    watch = Recorder(stop_after=2)
    model = MLPClassifier(4, solver=solver, max_iter=10, random_state=0).set_callbacks(watch).fit(X, RARE)
    assert model.n_iter_ == len(watch.scores) == 3
    assert watch.begun == watch.ended
    assert watch.torn_down
    assert watch.scores[-1] == model.score(X, RARE)


def test_scikit_learns_callbacks_are_torn_down_after_a_failure():
    watch = Recorder()
    with pytest.raises(ValueError, match="NaN"):
        MLPClassifier(4, random_state=0).set_callbacks(watch).fit(X, RARE, X_val=X * np.nan, y_val=RARE)
    diverging = MLPRegressor(solver="sgd", learning_rate_init=1e9, max_iter=5).set_callbacks(watch)
    with pytest.raises(xpmlp.DivergenceError):
        diverging.fit(X * 1e9, NUMBERS)
    assert watch.torn_down
    assert watch.begun == watch.ended + 1  # the fit itself was begun and never ended; its epoch was


def test_the_monitor_of_scores_works_alone_and_in_a_grid_search():
    X_iris, y_iris = load_iris(return_X_y=True)
    monitor = ScoringMonitor(scoring="accuracy")
    clf = MLPClassifier(5, max_iter=3, random_state=0).set_callbacks(monitor).fit(X_iris, y_iris)
    scores = [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(scores) == 3
    assert scores[-1] == clf.score(X_iris, y_iris)
    monitor = ScoringMonitor(scoring="accuracy")
    watched = MLPClassifier(5, max_iter=2, random_state=0).set_callbacks(monitor)
    search = GridSearchCV(watched, {"alpha": [1e-4, 1.0]}, cv=2).fit(X_iris, y_iris)
    assert search.n_features_in_ == 4


def test_the_progress_bar_works():
    pytest.importorskip("rich")
    model = MLPClassifier(5, max_iter=3, random_state=0).set_callbacks(ProgressBar())
    assert model.fit(X, RARE).n_iter_ == 3


def test_quantiles_hold_their_shares_and_do_not_cross():
    rng = np.random.default_rng(1)
    x = rng.uniform(-2, 2, (600, 1))
    y = x[:, 0] + (1.0 + np.abs(x[:, 0])) * rng.normal(size=600)
    options = {"hidden_layer_sizes": 20, "learning_rate_init": 0.01, "max_iter": 150, "random_state": 0, "tol": 0.0}
    reg = MLPRegressor("pinball", quantile=[0.9, 0.1, 0.5], **options).fit(x, y)
    high, low, middle = reg.predict(x).T
    assert (low <= middle).all()
    assert (middle <= high).all()
    for q, column in ((0.9, high), (0.1, low), (0.5, middle)):
        assert np.mean(y <= column) == pytest.approx(q, abs=0.06)
    assert 0.0 < reg.score(x, y) < 1.0
    one = MLPRegressor("pinball", quantile=0.9, **options).fit(x, y)
    assert one.predict(x).shape == (600,)
    assert np.mean(y <= one.predict(x)) == pytest.approx(0.9, abs=0.06)


def test_input_gradients_agree_with_differences():
    clf = MLPClassifier((6, 5), activation=["tanh", "gelu"], max_iter=20, random_state=0, learning_rate_init=0.01)
    y = np.digitize(X[:, 0], [-0.5, 0.5])
    clf.fit(X, y)
    h, here = 1e-6, X[:5]
    slopes = clf.input_gradients(here)
    assert slopes.shape == (5, 3, 3)
    losses = clf.input_gradients(here, y[:5])
    for j in range(3):
        step = h * np.eye(3)[j]
        up, down = clf.predict_proba(here + step), clf.predict_proba(here - step)
        np.testing.assert_allclose(slopes[:, :, j], (up - down) / (2 * h), atol=1e-8)
        rows = np.arange(5)
        numeric = (np.log(down[rows, y[:5]]) - np.log(up[rows, y[:5]])) / (2 * h)
        np.testing.assert_allclose(losses[:, j], numeric, atol=1e-7)
    np.testing.assert_array_equal(clf.input_gradients(here, output=1), slopes[:, 1, :])
    reg = MLPRegressor(hidden_layer_sizes=(), max_iter=1, random_state=0).fit(X, NUMBERS)
    np.testing.assert_allclose(reg.input_gradients(here), np.broadcast_to(reg.coefs_[0].T, (5, 3)))


def test_an_untouched_hidden_layer_is_a_matrix_product_away():
    reg = MLPRegressor(hidden_layer_sizes=(6, 5), activation=["relu", "tanh"], max_iter=2, random_state=0).fit(
        X, NUMBERS
    )
    first = np.maximum(X @ reg.coefs_[0] + reg.intercepts_[0], 0.0)
    np.testing.assert_allclose(reg.hidden_activations(X, 0), first)
    np.testing.assert_allclose(reg.hidden_activations(X), np.tanh(first @ reg.coefs_[1] + reg.intercepts_[1]))
