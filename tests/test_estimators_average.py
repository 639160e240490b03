"""`average` and `learning_rate_factors` of the estimators: what is kept, and what moves."""

import re

import numpy as np
import pytest

from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.estimators.parameters import InvalidParameterError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
Y = X[:, 0] * X[:, 1]
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def model(**options):
    return MLPRegressor(hidden_layer_sizes=4, random_state=0, **{"max_iter": 6, "batch_size": 40} | options)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_the_model_is_the_exponential_average_of_the_weights_after_each_step(solver):
    points = []  # one step an epoch
    model(solver=solver, callbacks=lambda m, epoch, logs: points.append(m.coefs_[0])).fit(X, Y)
    mean = np.zeros_like(points[0])
    for t, W in enumerate(points, start=1):
        mean += (W - mean) * max(1.0 / 3.0, 1.0 / t)
    np.testing.assert_allclose(model(solver=solver, average=3).fit(X, Y).coefs_[0], mean, rtol=1e-12)


def test_what_early_stopping_judges_and_keeps_is_the_average():
    held = {"X_val": X[:20], "y_val": Y[:20]}
    fitted = model(average=2, early_stopping=True, batch_size=8, max_iter=30, n_iter_no_change=3).fit(X, Y, **held)
    assert max(fitted.validation_scores_) == pytest.approx(fitted.score(X[:20], Y[:20]), rel=1e-9)


def test_a_run_with_an_average_goes_on_to_the_same_bits(tmp_path):
    options = {"average": 2, "batch_size": 8}
    whole = model(**options).fit(X, Y)
    model(**options | {"max_iter": 3}).fit(X, Y, checkpoint=tmp_path)
    again = model(**options).fit(X, Y, checkpoint=tmp_path, resume=True)
    assert np.array_equal(again.coefs_[0], whole.coefs_[0])
    warm = model(**options, warm_start=True).fit(X, Y).fit(X, Y)
    assert not np.array_equal(warm.coefs_[0], whole.coefs_[0])


def test_a_pass_over_a_stream_keeps_no_average():
    first, second = model(average=2).partial_fit(X, Y), model().partial_fit(X, Y)
    for _ in range(2):
        first.partial_fit(X, Y)
        second.partial_fit(X, Y)
    assert np.array_equal(first.coefs_[0], second.coefs_[0])
    assert np.all(np.isfinite(model(average=2).fit(X, Y).partial_fit(X, Y).coefs_[0]))


@pytest.mark.parametrize(("factors", "frozen"), [([0.0, 1.0], 0), ([1.0, 0.0], 1), ({"W": 0.0}, None)])
def test_a_factor_of_zero_freezes_what_it_names(factors, frozen):
    seen = []
    model(learning_rate_factors=factors, callbacks=lambda m, *_: seen.append((m.coefs_, m.intercepts_))).fit(X, Y)
    first, last = seen[0], seen[-1]
    still = [tuple(np.array_equal(first[i][k], last[i][k]) for i in range(2)) for k in range(2)]
    assert still == ([(True, False)] * 2 if frozen is None else [(k == frozen, k == frozen) for k in range(2)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate_factors": [1.0]}, "one for each of the 2 layers"),
        ({"learning_rate_factors": {"V": 1.0}}, "must name what the network has, ['W', 'b']"),
        ({"learning_rate_factors": -1.0}, "The 'learning_rate_factors' parameter"),
        ({"average": -1.0}, "The 'average' parameter"),
        ({"average": 1.0, "solver": "lbfgs"}, "leave average out"),
        ({"learning_rate_factors": [1, 1], "solver": "lbfgs"}, "leave learning_rate_factors out"),
    ],
)
def test_what_cannot_be_is_told(options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        MLPClassifier(hidden_layer_sizes=4, max_iter=2, **options).fit(X, Y > 0)
    assert isinstance(raised.value, (InvalidParameterError, TypeError))
