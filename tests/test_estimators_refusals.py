"""What the estimators refuse: each bad input ends in an error of ours that says what to do; the model stays itself."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.estimators.parameters import CONSTRAINTS, InvalidParameterError
from xpmlp.estimators.validation import InvalidInputError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3))
LABELS, NUMBERS = (X[:, 0] > 0).astype(int), X[:, 0] + X[:, 1]
NAN, INF = float("nan"), float("inf")

PARAMETERS = {
    "hidden_layer_sizes": ["ten", (5, 0), (-1,), (2.5,), (True,), 0, -3, None, ("a",), {}],
    "activation": ["rleu", "softmax", 3, None, ["relu", "tanh"], ["rleu"], (np.tanh,), lambda z: z],
    "solver": ["adams", 1, None, "LBFGS", ("adam",)],
    "alpha": [-1e-9, "a", None, NAN, True],
    "batch_size": [0, -5, 2.5, "all", None, True],
    "learning_rate": ["adaptiv", 0.1, None, 3],
    "learning_rate_init": [0, -1.0, "fast", None, NAN],
    "power_t": [-0.5, "half", None],
    "max_iter": [0, -1, 2.5, "many", None, True],
    "shuffle": ["yes", 1, None],
    "random_state": [-1, 2**32, "seed", 0.5, np.random.default_rng(0)],
    "tol": [-1e-9, "small", None, NAN],
    "verbose": [-1, "loud", None],
    "warm_start": ["yes", 0, None],
    "momentum": [-0.1, 1.1, "much", None],
    "nesterovs_momentum": ["yes", 1],
    "early_stopping": ["yes", 1],
    "validation_fraction": [-0.1, 1.0, "tenth", None],
    "beta_1": [-0.1, 1.0, None],
    "beta_2": [-0.1, 1.0, None],
    "epsilon": [0.0, -1e-8, None],
    "n_iter_no_change": [0, 2.5, -INF, None],
    "max_fun": [0, 1.5, None],
    "backend": ["numpyy", 3, ("numpy",)],
    "device": [0, "cuda:0"],
    "dtype": ["float16", "int64", np.float32],
    "initializer": ["glorot", 3],
    "dropout": [1.0, -0.1, "some", [0.1, 0.2], [1.5], None],
    "clip_norm": [0.0, -1.0, "tight"],
    "scoring": [3, ["accuracy"]],
    "max_time": [0.0, -1.0, "long"],
    "average": [-1.0, "much", None],
    "learning_rate_factors": [1.0, [-1.0], "W"],
    "callbacks": [3, "print", [3]],
    "class_weight": ["balance", 3, [1, 2]],
    "label_smoothing": [1.0, -0.1, "some"],
    "loss": ["squared", (3,), 3, None, "cross_entropy", (np.abs,)],
    "quantile": [0.0, 1.0, -0.1, "median", [0.1, 1.0], None],
}
ONLY = {"class_weight": MLPClassifier, "label_smoothing": MLPClassifier, "loss": MLPRegressor, "quantile": MLPRegressor}
PARAMETER_CASES = [(name, value) for name, values in PARAMETERS.items() for value in values]


def a_classifier():
    return MLPClassifier(4, max_iter=2, random_state=0).fit(X, LABELS)


def a_regressor():
    return MLPRegressor(hidden_layer_sizes=4, max_iter=2, random_state=0).fit(X, NUMBERS)


def state_of(model):
    return {name: value for name, value in vars(model).items() if name.endswith("_")}


def assert_unchanged(model, before, expected):
    after = state_of(model)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    np.testing.assert_array_equal(model.predict(X), expected)


@pytest.mark.parametrize("name, value", PARAMETER_CASES, ids=lambda case: repr(case).partition(" at 0x")[0][:40])
def test_a_wrong_parameter_is_refused_by_fit_and_by_a_second_partial_fit(name, value):
    model = (ONLY.get(name) or (MLPClassifier if name < "f" else MLPRegressor))(hidden_layer_sizes=4, max_iter=2)
    y = LABELS if isinstance(model, MLPClassifier) else NUMBERS
    model.fit(X, y)
    before, expected = state_of(model), model.predict(X)
    model.set_params(**{name: value})
    for method in ("fit", "partial_fit"):
        if method == "partial_fit" and not hasattr(model, "partial_fit"):
            continue
        with pytest.raises((InvalidParameterError, InvalidInputError)) as caught:
            getattr(model, method)(X, y)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, TypeError)
        assert name in str(caught.value)
        assert_unchanged(model, before, expected)


def test_every_parameter_has_a_wrong_value_in_the_table():
    assert set(PARAMETERS) == set(CONSTRAINTS)
    for Estimator in (MLPClassifier, MLPRegressor):
        assert set(Estimator().get_params()) <= set(CONSTRAINTS)


def test_a_constraint_that_lets_everything_pass_is_noticed(monkeypatch):
    from xpmlp.estimators import parameters

    monkeypatch.setitem(parameters.CONSTRAINTS, "alpha", (parameters.Constraint("anything", lambda value: True),))
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_wrong_parameter_is_refused_by_fit_and_by_a_second_partial_fit("alpha", -1.0)


def with_value(value, at=(3, 1)):
    changed = X.copy()
    changed[at] = value
    return changed


BAD_X = {
    "NaN": (with_value(NAN), "contains NaN"),
    "infinity": (with_value(INF), "contains infinity"),
    "minus infinity": (with_value(-INF), "contains infinity"),
    "one dimension": (X[:, 0], "Expected 2D array, got 1D array instead"),
    "three dimensions": (X[None], "dim 3"),
    "a number": (3.0, "Expected 2D array, got scalar"),
    "no rows": (X[:0], "minimum of 1 is required"),
    "no columns": (X[:, :0], "minimum of 1 is required"),
    "strings": (np.full((40, 3), "a"), "Encode strings first"),
    "objects": (np.full((40, 3), None, dtype=object), None),
    "complex": (X.astype(complex), "Complex data not supported"),
    "dates": (np.zeros((40, 3), "M8[D]"), "dates or times"),
    "durations": (np.zeros((40, 3), "m8[s]"), "dates or times"),
    "ragged": ([[1.0], [1.0, 2.0]], None),
    "None": (None, None),
    "a sparse NaN": (sparse.csr_array(with_value(NAN)), "contains NaN"),
    "a dictionary": ({"a": 1}, None),
}
BAD_ROWS = {
    "too few": (X[:-1], "inconsistent numbers of samples"),
    "too many": (np.vstack([X, X]), "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("what", [*BAD_X, *BAD_ROWS])
@pytest.mark.parametrize("make", [a_classifier, a_regressor])
def test_an_x_that_cannot_be_is_refused_by_fit(make, what):
    model = make()
    before, expected = state_of(model), model.predict(X)
    bad, text = {**BAD_X, **BAD_ROWS}[what]
    for method in ("fit", "partial_fit"):
        with pytest.raises(InvalidInputError, match=text):
            getattr(model, method)(bad, LABELS)
        assert_unchanged(model, before, expected)


@pytest.mark.parametrize("what", BAD_X)
def test_an_x_that_cannot_be_is_refused_by_predict(what):
    model = a_classifier()
    bad, text = BAD_X[what]
    for method in (model.predict, model.predict_proba, model.hidden_activations, model.input_gradients):
        with pytest.raises(InvalidInputError, match=text):
            method(bad)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_other_columns_than_in_fit_are_refused(columns):
    model = a_classifier()
    other = np.zeros((5, columns))
    for method in (model.predict, model.predict_proba, lambda x: model.partial_fit(x, LABELS[:5])):
        with pytest.raises(InvalidInputError, match=f"X has {columns} features, but MLPClassifier is expecting 3"):
            method(other)


def test_arrays_of_another_library_are_refused_in_the_same_words(backend):
    if backend.name == "numpy":
        return
    here, y = backend.put(X), backend.put(LABELS)
    model = MLPClassifier(4, max_iter=1, random_state=0).fit(here, y)
    for bad, text in (
        (backend.put(with_value(NAN)), "contains NaN or infinity"),
        (backend.put(X[:, 0]), "Expected 2D array, got 1D array instead"),
        (backend.put(X[:0]), "Found array with 0 sample"),
        (backend.put(X[:, :2]), "X has 2 features, but MLPClassifier is expecting 3"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            model.predict(bad)
    with pytest.raises(InvalidInputError, match="inconsistent numbers of samples"):
        model.fit(here, backend.put(LABELS[:-1]))


BAD_LABELS = {
    "None": (None, "requires y to be passed"),
    "numbers on a scale": (NUMBERS, "Unknown label type"),
    "NaN": (np.where(LABELS, NAN, 0.0), "NaN"),
    "two columns of classes": (np.column_stack([LABELS + 1, LABELS + 5]), None),
    "three axes": (np.zeros((40, 1, 1)), None),
    "a number": (1, None),
}
BAD_NUMBERS = {
    "None": (None, "requires y to be passed"),
    "NaN": (np.where(LABELS, NAN, 0.0), "NaN"),
    "infinity": (np.where(LABELS, INF, 0.0), "infinity"),
    "strings": (np.full(40, "a"), "could not convert"),
    "three axes": (np.zeros((40, 2, 2)), None),
    "complex": (NUMBERS.astype(complex), "Complex"),
}
TARGETS = [(a_classifier, y, text) for y, text in BAD_LABELS.values()]
TARGETS += [(a_regressor, y, text) for y, text in BAD_NUMBERS.values()]


@pytest.mark.parametrize("make, y, text", TARGETS)
def test_targets_that_cannot_be_are_refused(make, y, text):
    model = make()
    before, expected = state_of(model), model.predict(X)
    with pytest.raises(InvalidInputError, match=text):
        model.fit(X, y)
    assert_unchanged(model, before, expected)


WEIGHTS = np.ones(40)
BAD_WEIGHTS = {
    "negative": (np.where(LABELS, -1.0, 1.0), "Negative values"),
    "NaN": (np.where(LABELS, NAN, 1.0), "NaN"),
    "infinite": (np.where(LABELS, INF, 1.0), "infinity"),
    "all zero": (0.0 * WEIGHTS, "at least one non-zero"),
    "too few": (WEIGHTS[:-1], r"sample_weight.shape == \(39,\), expected \(40,\)"),
    "two axes": (np.ones((40, 2)), "must be 1D array or scalar"),
    "strings": (["a"] * 40, "could not convert"),
    "a negative number": (-1.0, "Negative values"),
    "zero": (0, "at least one non-zero"),
}


@pytest.mark.parametrize("what", BAD_WEIGHTS)
@pytest.mark.parametrize("make", [a_classifier, a_regressor])
def test_weights_that_cannot_be_are_refused(make, what):
    model = make()
    before, expected = state_of(model), model.predict(X)
    w, text = BAD_WEIGHTS[what]
    for method in (model.fit, model.partial_fit):
        with pytest.raises(InvalidInputError, match=text):
            method(X, LABELS, sample_weight=w)
        assert_unchanged(model, before, expected)


def pairs(**options):
    return options


CALLS = {
    "X_val alone": (pairs(), pairs(X_val=X), "X_val and y_val come together"),
    "y_val alone": (pairs(), pairs(y_val=LABELS), "X_val and y_val come together"),
    "weights of nothing": (pairs(), pairs(sample_weight_val=WEIGHTS), "X_val and y_val come together"),
    "X_val of other columns": (pairs(), pairs(X_val=X[:, :2], y_val=LABELS), "X has 2 features"),
    "X_val of other rows": (pairs(), pairs(X_val=X[:5], y_val=LABELS), "inconsistent"),
    "X_val with NaN": (pairs(), pairs(X_val=with_value(NAN), y_val=LABELS), "contains NaN"),
    "y_val of other classes": (pairs(), pairs(X_val=X, y_val=LABELS + 5), "has classes not in"),
    "weights of y_val below 0": (pairs(), pairs(X_val=X, y_val=LABELS, sample_weight_val=-WEIGHTS), "Negative"),
    "a class that is not there": (pairs(class_weight={7: 1.0}), pairs(), "class_weight names a class 7"),
    "a class below 0": (pairs(class_weight={0: -1.0}), pairs(), r"class_weight\[0\] must be"),
    "a class of NaN": (pairs(class_weight={0: NAN}), pairs(), r"class_weight\[0\] must be"),
    "a class of words": (pairs(class_weight={0: "much"}), pairs(), r"class_weight\[0\] must be"),
    "no class at all": (pairs(class_weight={0: 0.0, 1: 0.0}), pairs(), "no sample with a weight"),
    "a device without a backend": (pairs(device="cpu"), pairs(), "needs a backend"),
    "dropout in lbfgs": (pairs(solver="lbfgs", dropout=0.5), pairs(), "lbfgs cannot follow"),
    "an unknown score": (pairs(early_stopping=True, scoring="acuracy"), pairs(), "acuracy"),
    "too small a part": (pairs(early_stopping=True, validation_fraction=0.01), pairs(), None),
}


@pytest.mark.parametrize("what", CALLS)
def test_calls_that_cannot_be_are_refused(what):
    model = a_classifier()
    before, expected = state_of(model), model.predict(X)
    options, arguments, text = CALLS[what]
    model.set_params(**options)
    with pytest.raises((InvalidParameterError, InvalidInputError), match=text):
        model.fit(X, LABELS, **arguments)
    assert_unchanged(model, before, expected)


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
def test_a_part_without_any_weight_is_refused(cls):
    told = []
    for row in range(40):  # where one sample has all the weight, the part that it is not in has none
        model = cls(hidden_layer_sizes=(4,), early_stopping=True, random_state=0, max_iter=1)
        with pytest.raises(InvalidInputError, match="has weight 0; pass X_val, y_val") as caught:
            model.fit(X, LABELS, sample_weight=np.arange(40) == row)
        assert vars(model) == vars(cls(hidden_layer_sizes=(4,), early_stopping=True, random_state=0, max_iter=1))
        told.append(str(caught.value).split(" has ")[0])
    held = "all that validation_fraction=0.1 holds out"
    assert [told.count(held), told.count("all that validation_fraction=0.1 leaves to train on")] == [36, 4]


def test_what_partial_fit_alone_refuses():
    with pytest.raises(InvalidInputError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(X, LABELS)
    with pytest.raises(InvalidInputError, match="has classes not in"):
        MLPClassifier().partial_fit(X, LABELS, classes=[2])
    model = MLPClassifier(4).partial_fit(X, LABELS, classes=[0, 1])
    before, expected = state_of(model), model.predict(X)
    for arguments, text in (
        ({"y": LABELS, "classes": [1, 2]}, "is not the same as on last call"),
        ({"y": LABELS + 1}, "has classes not in"),
        ({"y": np.column_stack([LABELS, LABELS])}, "one label per sample"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            model.partial_fit(X, **arguments)
        assert_unchanged(model, before, expected)
    model.set_params(class_weight="balanced")
    with pytest.raises(InvalidInputError, match="'balanced' is not supported for partial_fit"):
        model.partial_fit(X, LABELS)
    model.set_params(class_weight=None, hidden_layer_sizes=7)
    with pytest.raises(InvalidInputError, match="hidden_layer_sizes, X or y have changed"):
        model.partial_fit(X, LABELS)
    reg = a_regressor()
    with pytest.raises(InvalidInputError, match="hidden_layer_sizes, X or y have changed"):
        reg.partial_fit(X, X[:, :2])
    many = MLPClassifier(4, max_iter=1).fit(X, (X > 0).astype(int))
    with pytest.raises(InvalidInputError, match="3 columns, one per label"):
        many.partial_fit(X, LABELS)
    with pytest.raises(InvalidInputError, match="class_weight needs one class per sample"):
        many.set_params(class_weight={0: 1.0}).partial_fit(X, (X > 0).astype(int))


def test_targets_outside_the_domain_of_a_loss_are_refused():
    with pytest.raises(InvalidInputError, match="y must not be negative for the loss 'poisson'"):
        MLPRegressor("poisson").fit(X, NUMBERS)
    with pytest.raises(InvalidInputError, match="y must lie between 0 and 1"):
        MLPRegressor(xpmlp.loss("binary_cross_entropy")).fit(X, np.abs(NUMBERS) + 2.0)
    with pytest.raises(InvalidInputError, match="quantiles are of one output"):
        MLPRegressor("pinball", quantile=[0.1, 0.9]).fit(X, X[:, :2])


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda model: model.hidden_activations(X, layer=1), "one of 1 hidden layers"),
        (lambda model: model.hidden_activations(X, layer=-2), "at least -1"),
        (lambda model: model.hidden_activations(X, layer=0.5), "whole number"),
        (lambda model: model.input_gradients(X, output=1), "one of 1 outputs"),
        (lambda model: model.input_gradients(X, output=-1), "at least 0"),
        (lambda model: model.input_gradients(X, LABELS[:-1]), "inconsistent"),
        (MLPClassifier.from_sklearn, "needs a sklearn.neural_network.MLPClassifier"),
        (lambda model: MLPRegressor.from_sklearn(None), "needs a sklearn.neural_network.MLPRegressor"),
    ],
)
def test_questions_that_have_no_answer(call, text):
    with pytest.raises(InvalidInputError, match=text):
        call(a_classifier())


def test_set_params_that_fails_halfway_predicts_as_before():
    model = a_classifier()
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match="Invalid parameter 'no_such'"):
        model.set_params(activation="tanh", no_such=1)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


def test_there_are_a_hundred_and_fifty_cases():
    counted = [PARAMETER_CASES, 4 * [*BAD_X, *BAD_ROWS], BAD_X, TARGETS, 2 * list(BAD_WEIGHTS), CALLS]
    assert sum(map(len, counted)) >= 250
