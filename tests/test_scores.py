"""What early stopping watches by default is scikit-learn's own score, to the last digit."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, r2_score

from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.estimators.classes import Classes
from xpmlp.estimators.scores import accuracy_of, r2_of
from xpmlp.estimators.validation import NUMPY

SIZES = st.integers(2, 40)
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=60, deadline=None)
LABELS = {
    "one class": Classes("binary", np.array(["only"])),
    "two": Classes("binary", np.array(["no", "yes"])),
    "five": Classes("multiclass", np.array([-1, 0, 2, 3, 9])),
    "several labels": Classes("multilabel", np.arange(3)),
    "one label in a column": Classes("multilabel", np.arange(1)),
}


def weights(rng: np.random.Generator, n: int) -> np.ndarray:
    w = rng.uniform(0.0, 3.0, n) * (rng.uniform(size=n) < 0.7)
    w[rng.integers(n)] = 1.0  # they are never all zero
    return w


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@FEW
@given(n=SIZES, seed=SEEDS)
def test_accuracy_is_that_of_scikit_learn(labels: Classes, weighted: bool, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = len(labels.classes)
    y = rng.integers(0, 2, (n, k)) if labels.kind == "multilabel" else labels.classes[rng.integers(0, k, n)]
    yhat = rng.choice([0.1, 0.4, 0.5, 0.6], (n, labels.n_outputs))  # ties, and exactly one half
    w = weights(rng, n) if weighted else None
    score = accuracy_of(labels.columns(y), w, exclusive=labels.kind != "multilabel", n_classes=k)
    assert score(yhat) == accuracy_score(y, labels.decode(yhat, NUMPY, NUMPY), sample_weight=w)


@pytest.mark.parametrize("kind", ["of the data", "constant", "exact", "constant and exact", "one of each"])
@pytest.mark.parametrize("outputs", [None, 1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@FEW
@given(n=SIZES, seed=SEEDS, narrow=st.booleans(), integers=st.booleans())
def test_r2_is_that_of_scikit_learn(
    kind: str, outputs: int | None, weighted: bool, n: int, seed: int, narrow: bool, integers: bool
) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n, outputs or 1)) * 5.0
    if kind.startswith("constant"):
        y[:] = y[0]
    if kind == "one of each":
        y[:, 0] = 2.0
    y = y.astype(np.int64 if integers else np.float64)
    yhat = y + 0.0 if "exact" in kind else rng.standard_normal(y.shape)
    yhat = yhat.astype(np.float32 if narrow else np.float64)
    if outputs is None:
        y = y[:, 0]
    w = weights(rng, n) if weighted else None
    assert r2_of(y, w, str(yhat.dtype))(yhat) == r2_score(y, yhat, sample_weight=w)


def test_r2_of_one_sample_is_not_defined_as_in_scikit_learn() -> None:
    with pytest.warns(UserWarning, match="less than two samples"):
        assert np.isnan(r2_of(np.ones(1), None, "float64")(np.ones((1, 1))))


@pytest.mark.parametrize("case", ["two", "three", "several labels", "one output", "two outputs"])
def test_the_last_validation_score_is_what_score_says_of_the_same_samples(case: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 4))
    z = X @ rng.standard_normal((4, 3))
    y = {
        "two": np.where(z[:, 0] > 0, "yes", "no"),
        "three": np.argmax(z, axis=1),
        "several labels": (z > 0).astype(int),
        "one output": z[:, 0],
        "two outputs": z[:, :2],
    }[case]
    Estimator = MLPRegressor if "output" in case else MLPClassifier
    w = rng.uniform(0.5, 2.0, 60)
    model = Estimator(hidden_layer_sizes=8, max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three epochs do not converge
        model.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:], sample_weight_val=w[40:])
    assert model.validation_scores_[-1] == model.score(X[40:], y[40:], w[40:])
