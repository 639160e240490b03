"""Estimators in other hands: pickles, scikit-learn's own MLP, PyTorch's modules."""

from __future__ import annotations

import copy
import pickle

import joblib
import numpy as np
import pytest
import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.network.activations import ACTIVATIONS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_digits(return_X_y=True)
X, y = X[:300] / 16.0, y[:300]
LABELS = np.array(list("abcdefghij"))[y]
MANY = make_multilabel_classification(60, random_state=0)
SEVERAL = make_regression(60, 5, n_targets=3, random_state=0)
MODELS = {
    "multiclass": (MLPClassifier, {}, X, y),
    "strings": (MLPClassifier, {"activation": "tanh"}, X, LABELS),
    "binary": (MLPClassifier, {"hidden_layer_sizes": (7, 5)}, X, y > 4),
    "multilabel": (MLPClassifier, {"activation": "logistic"}, *MANY),
    "regression": (MLPRegressor, {}, X, y * 1.0),
    "outputs": (MLPRegressor, {"hidden_layer_sizes": (9, 8)}, *SEVERAL),
    "poisson": (MLPRegressor, {"loss": "poisson", "activation": "identity"}, X, y * 1.0),
    "no hidden layer": (MLPRegressor, {"hidden_layer_sizes": ()}, X, y * 1.0),
    "lbfgs": (MLPClassifier, {"solver": "lbfgs"}, X, y),
    "another solver": (MLPClassifier, {"solver": "lion", "learning_rate": "cosine", "dropout": 0.1}, X, y),
    "early stopping": (MLPClassifier, {"early_stopping": True}, X, y),
    "float32": (MLPRegressor, {}, X.astype(np.float32), y * 1.0),
}


def fitted(what, **options):
    Estimator, own, x, targets = MODELS[what]
    return Estimator(**{"max_iter": 4, "random_state": 0, **own, **options}).fit(x, targets), x


@pytest.mark.parametrize("what", MODELS)
def test_to_scikit_learn_and_back(what):
    ours, x = fitted(what)
    other = ours.to_sklearn()
    assert type(other) is getattr(theirs, type(ours).__name__)
    if isinstance(ours, MLPClassifier):
        np.testing.assert_array_equal(other.classes_, ours.classes_)
        np.testing.assert_array_equal(other.predict(x), ours.predict(x))
    method = "predict_proba" if isinstance(ours, MLPClassifier) else "predict"
    tolerance = 1e-4 if what == "float32" else 1e-10
    np.testing.assert_allclose(getattr(other, method)(x), getattr(ours, method)(x), rtol=tolerance)
    back = type(ours).from_sklearn(other)
    np.testing.assert_array_equal(back.predict(x), ours.predict(x))
    other.coefs_[0][:] = 0.0  # no memory is shared
    np.testing.assert_array_equal(back.predict(x), ours.predict(x))
    clone(other)


def test_what_scikit_learn_cannot_express_is_said():
    for options, text in (
        ({"activation": "gelu"}, "one activation for all hidden layers"),
        ({"hidden_layer_sizes": (5, 5), "activation": ["relu", "tanh"]}, "one activation for all hidden layers"),
    ):
        with pytest.raises(ValueError, match=text):
            fitted("regression", **options)[0].to_sklearn()
    with pytest.raises(ValueError, match="no quantiles that share a network"):
        fitted("regression", loss="pinball", quantile=[0.1, 0.9])[0].to_sklearn()


def test_a_model_from_scikit_learn_can_be_trained_on():
    other = theirs.MLPClassifier(max_iter=5, random_state=0).fit(X, LABELS)
    ours = MLPClassifier.from_sklearn(other)
    np.testing.assert_allclose(ours.predict_proba(X), other.predict_proba(X), rtol=1e-12)
    before = ours.score(X, LABELS)
    for _ in range(20):
        ours.partial_fit(X, LABELS)
    assert ours.score(X, LABELS) > before
    assert other.score(X, LABELS) == before
    assert ours.input_gradients(X[:2], LABELS[:2]).shape == (2, 64)


@pytest.mark.parametrize("activation", [name for name, row in ACTIVATIONS.items() if row.outputs != "distribution"])
def test_to_torch_gives_the_same_numbers(activation):
    torch = pytest.importorskip("torch")
    ours, x = fitted("multiclass", activation=activation, hidden_layer_sizes=(7, 5))
    module = ours.to_torch()
    np.testing.assert_allclose(module(torch.asarray(x)).detach().numpy(), ours.predict_proba(x), rtol=1e-6, atol=1e-9)
    module[0].weight.data.zero_()
    np.testing.assert_array_equal(
        ours.predict(x), fitted("multiclass", activation=activation, hidden_layer_sizes=(7, 5))[0].predict(x)
    )


def test_to_torch_knows_exp_and_refuses_own_functions():
    torch = pytest.importorskip("torch")
    ours, x = fitted("poisson")
    np.testing.assert_allclose(ours.to_torch()(torch.asarray(x)).detach().numpy()[:, 0], ours.predict(x))
    own = fitted("regression", activation=(np.sin, lambda z, a: np.cos(z)))[0]
    with pytest.raises(ValueError, match="PyTorch has no module for the activation"):
        own.to_torch()


def test_a_pickle_after_fit_is_slim():
    # Measured: 1.02 here; scikit-learn's own is 4.0 times the parameters.
    ours = MLPClassifier((256, 256), max_iter=2, random_state=0).fit(X, y)
    parameters = sum(w.nbytes for w in ours.coefs_ + ours.intercepts_)
    assert len(pickle.dumps(ours)) <= 1.1 * parameters
    ours.partial_fit(X, y)
    assert len(pickle.dumps(ours)) > 2.9 * parameters  # adam's two moments stay in


@pytest.mark.parametrize("what", MODELS)
def test_copies_predict_the_same(what):
    ours, x = fitted(what)
    for other in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours), copy.copy(ours)):
        np.testing.assert_array_equal(other.predict(x), ours.predict(x))
        assert repr(other) == repr(ours)


def test_a_model_loaded_from_a_read_only_file_can_be_trained_on(tmp_path):
    ours, x = fitted("regression")
    joblib.dump(ours, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
    first = loaded.predict(x)
    np.testing.assert_array_equal(first, ours.predict(x))
    for _ in range(5):
        loaded.partial_fit(x, np.zeros(len(x)))
    assert np.mean(np.abs(loaded.predict(x))) < np.mean(np.abs(first))
    np.testing.assert_array_equal(first, ours.predict(x))


def test_fine_tuning_after_loading_reaches_the_new_target(tmp_path):
    model = MLPRegressor(hidden_layer_sizes=(42,), random_state=42, learning_rate_init=0.01).fit([[2]], [4])
    loaded = pickle.loads(pickle.dumps(model))
    for _ in range(200):
        loaded.partial_fit([[2]], [1])
    np.testing.assert_allclose(loaded.predict([[2]]), [1], rtol=1e-4)


def test_parameters_act_in_fit_and_not_before():
    ours, x = fitted("multiclass")
    expected = ours.predict_proba(x)
    ours.set_params(activation="tanh", hidden_layer_sizes=(3, 3), backend="no such backend", solver="nonsense")
    np.testing.assert_array_equal(ours.predict_proba(x), expected)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(xpmlp.DivergenceError("text")))
    assert str(error) == "text"
