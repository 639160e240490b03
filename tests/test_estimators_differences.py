"""Whatever scikit-learn's MLP fits, ours fits, with the same predictions; what differs on purpose is named here.

Each odd y and X goes to both, and classes, predictions, probabilities and weights are compared. What is different on
purpose has a test of its own, and a row of the README's table.
"""

import warnings

import numpy as np
import pytest
import sklearn.neural_network as theirs
from scipy import sparse

import xpmlp
from xpmlp import MLPClassifier, MLPRegressor

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
SIGN = (X[:, 0] > 0) * 1
THREE = SIGN + (X[:, 1] > 0)
RARE = np.where(np.arange(60) == 7, 5, THREE)
SEVERAL = (X[:, :3] > 0).astype(int)
# Measured over this file: at most 2e-14 in float64, 3e-6 in float32 (which both compute in another order).
EXACT, ROUNDED = {"rtol": 1e-9, "atol": 1e-12}, {"rtol": 1e-3, "atol": 1e-5}

CLASSES = {
    "two": SIGN,
    "two, booleans": SIGN > 0,
    "two, a list": SIGN.tolist(),
    "two, text": np.array(["b", "a"])[SIGN],
    "two, text in objects": np.array(["b", "a"], dtype=object)[SIGN],
    "two, floats": SIGN * 1.0,
    "two, -1 and 1": 2 * SIGN - 1,
    "two, int8": SIGN.astype(np.int8),
    "two, uint64": (SIGN.astype(np.uint64) + 2**63).astype(np.uint64),
    "two, a pandas Series": pd.Series(SIGN),
    "two, a pandas Categorical": pd.Series(pd.Categorical.from_codes(SIGN, ["no", "yes"])),
    "two, pandas strings": pd.Series(np.array(["no", "yes"])[SIGN], dtype="string"),
    "two, a polars Series": pl.Series(SIGN),
    "two, a frame of one column": pd.DataFrame({"y": SIGN}),
    "two, a column": SIGN[:, None],
    "two, one of them once": (np.arange(60) == 7) * 1,
    "three": THREE,
    "three, text": np.array(["c", "a", "b"])[THREE],
    "three, far apart": np.array([-9, 4, 10**12])[THREE],
    "four, one of them once": RARE,
    "all others": np.arange(60),
    "twenty": np.arange(60) % 20,
    "one": np.zeros(60, dtype=int),
    "one, text": np.full(60, "a"),
    "one, True": np.ones(60, dtype=bool),
    "several labels": SEVERAL,
    "several labels, booleans": SEVERAL > 0,
    "several labels, floats": SEVERAL * 1.0,
    "several labels, one never": SEVERAL * [1, 0, 1],
    "several labels, one always": np.maximum(SEVERAL, [0, 1, 0]),
    "several labels, sparse": sparse.csr_matrix(SEVERAL),
    "several labels, a frame": pd.DataFrame(SEVERAL),
}
NUMBERS = {
    "floats": X[:, 1] * 2.0,
    "float32": X[:, 1].astype(np.float32),
    "whole numbers": THREE,
    "booleans": SIGN > 0,
    "a list": X[:, 1].tolist(),
    "constant": np.full(60, 3.0),
    "zero": np.zeros(60),
    "objects": X[:, 1].astype(object),
    "a column": X[:, 1:2],
    "a pandas Series": pd.Series(X[:, 1]),
    "uint8": (THREE * 100).astype(np.uint8),
}
INPUTS = {
    "float32": X.astype(np.float32),
    "float16": X.astype(np.float16),
    "whole numbers": (10 * X).astype(int),
    "uint8": np.abs(10 * X).astype(np.uint8),
    "booleans": X > 0,
    "objects": X.astype(object),
    "text of numbers in objects": X.round(2).astype(str).astype(object),
    "lists": X.tolist(),
    "a frame": pd.DataFrame(X, columns=list("abcd")),
    "a frame of several dtypes": pd.DataFrame({"a": X[:, 0], "b": SIGN, "c": SIGN > 0, "d": X[:, 1].astype("f4")}),
    "a frame of nullable dtypes": pd.DataFrame(X).convert_dtypes(),
    "a polars frame": pl.DataFrame(X, schema=list("abcd")),
    "Fortran's order": np.asfortranarray(X),
    "every second row of more": np.repeat(X, 2, axis=0)[::2],
    "backwards": X[::-1],
    "read-only": np.frombuffer(X.tobytes()).reshape(X.shape),
    "CSR": sparse.csr_matrix(X * (X > 0)),
    "CSC": sparse.csc_matrix(X * (X > 0)),
    "CSR array": sparse.csr_array(X * (X > 0)),
    "COO": sparse.coo_matrix(X * (X > 0)),
    "sparse, whole numbers": sparse.csr_matrix(SEVERAL),
    "constant columns": np.hstack([X, np.ones((60, 2))]),
    "one column": X[:, :1],
    "zeros": np.zeros((60, 4)),
    "other byte order": X.astype(X.dtype.newbyteorder()),
}


def trained(module, name, x, y, **parameters):
    given = {"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0} | parameters
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(module, name)(**given).fit(x, y)


def dense(answer):
    return answer.toarray() if sparse.issparse(answer) else np.asarray(answer)


def assert_the_same_answers(other, ours, x, tolerance=EXACT):
    if hasattr(other, "classes_"):
        np.testing.assert_array_equal(ours.classes_, other.classes_)
        probabilities = ours.predict_proba(x)
        np.testing.assert_allclose(probabilities, other.predict_proba(x), **tolerance)
        predicted, expected = dense(ours.predict(x)), dense(other.predict(x))
        np.testing.assert_array_equal(predicted, expected)
        # Labels of objects stay objects, as with every other classifier of scikit-learn's.
        assert predicted.dtype.kind == ours.classes_.dtype.kind
    else:
        np.testing.assert_allclose(ours.predict(x), other.predict(x), **tolerance)
    assert ours.predict(x).shape == other.predict(x).shape
    np.testing.assert_allclose(ours.coefs_[0], other.coefs_[0], **tolerance)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("what", CLASSES)
def test_any_classes_that_scikit_learn_fits_are_fitted_alike(what, solver):
    y = CLASSES[what]
    other = trained(theirs, "MLPClassifier", X, y, solver=solver)
    ours = trained(xpmlp, "MLPClassifier", X, y, solver=solver)
    assert_the_same_answers(other, ours, X, EXACT if solver == "adam" else ROUNDED)


@pytest.mark.parametrize("what", CLASSES)
def test_early_stopping_takes_the_classes_that_scikit_learns_takes(what):
    y = CLASSES[what]
    try:
        other = trained(theirs, "MLPClassifier", X, y, early_stopping=True)
    except ValueError:
        other = None
    ours = trained(xpmlp, "MLPClassifier", X, y, early_stopping=True)
    assert ours.predict_proba(X).shape == ((60, 2) if ours.n_outputs_ == 1 else (60, ours.n_outputs_))
    # Of three classes and more scikit-learn keeps no shares, so that other samples are held out.
    if other is not None and (ours.n_outputs_ == 1 or what.startswith("several")):
        assert_the_same_answers(other, ours, X)


@pytest.mark.parametrize("what", CLASSES)
def test_partial_fit_takes_the_classes_that_scikit_learns_takes(what):
    y = CLASSES[what]
    models = [theirs.MLPClassifier((6,), random_state=0), MLPClassifier((6,), random_state=0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classes = np.arange(3) if what.startswith("several") else np.unique(np.asarray(y))
        for model in models:
            for _ in range(3):
                model.partial_fit(X, y, classes=classes)
    assert_the_same_answers(*models, X)


@pytest.mark.parametrize("what", NUMBERS)
def test_any_numbers_that_scikit_learn_fits_are_fitted_alike(what):
    y = NUMBERS[what]
    other, ours = trained(theirs, "MLPRegressor", X, y), trained(xpmlp, "MLPRegressor", X, y)
    # scikit-learn adds in the dtype of y where that is narrower than X's.
    assert_the_same_answers(other, ours, X, ROUNDED if what == "float32" else EXACT)


@pytest.mark.parametrize("name, y", [("MLPClassifier", THREE), ("MLPRegressor", X[:, 1])])
@pytest.mark.parametrize("what", INPUTS)
def test_any_inputs_that_scikit_learn_fits_are_fitted_alike(what, name, y):
    x = INPUTS[what]
    other, ours = trained(theirs, name, x, y), trained(xpmlp, name, x, y)
    assert_the_same_answers(other, ours, x, ROUNDED if what == "float32" else EXACT)
    assert ours.n_features_in_ == other.n_features_in_
    assert hasattr(ours, "feature_names_in_") == hasattr(other, "feature_names_in_")


@pytest.mark.parametrize("what", ["lists", "a frame", "a polars frame", "CSR", "float32", "objects"])
def test_after_a_fit_on_numpy_any_inputs_are_predicted_alike(what):
    x = INPUTS[what]
    other, ours = (trained(module, "MLPClassifier", X, THREE) for module in (theirs, xpmlp))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that were not there in fit
        assert_the_same_answers(other, ours, x, ROUNDED if what == "float32" else EXACT)


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_after_a_fit_on_numpy_a_tensor_gets_the_answer_that_scikit_learn_gives(library):
    xp = pytest.importorskip(library)
    x = xp.asarray(X.astype(np.float32))
    other, ours = (trained(module, "MLPRegressor", X, X[:, 1]) for module in (theirs, xpmlp))
    np.testing.assert_allclose(ours.predict(x), other.predict(np.asarray(x)), **ROUNDED)
    assert type(ours.predict(x)) is type(other.predict(x)) is np.ndarray


def test_sparse_labels_are_answered_densely():
    other, ours = (trained(module, "MLPClassifier", X, CLASSES["several labels, sparse"]) for module in (theirs, xpmlp))
    assert sparse.issparse(other.predict(X))
    np.testing.assert_array_equal(ours.predict(X), other.predict(X).toarray())


def test_losses_at_saturation_are_exact_where_scikit_learn_clips_them():
    # Unscaled: at the first step probabilities are 0 and 1 to the last digit.
    x, y = 1e4 * X, SIGN
    other, ours = (trained(module, "MLPClassifier", x, y, max_iter=8) for module in (theirs, xpmlp))
    # -log(eps) = 36.04: what a wrong and certain answer costs at most with scikit-learn.
    assert max(other.loss_curve_) < 36.1 < max(ours.loss_curve_)
    assert_the_same_answers(other, ours, x)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_negative_weights_are_refused_on_purpose(kind):
    with pytest.raises(ValueError, match="Negative values in data passed to sample_weight"):
        kind().fit(X, SIGN, np.where(np.arange(60) == 3, -1.0, 1.0))


def test_negative_counts_are_refused_on_purpose():
    trained(theirs, "MLPRegressor", X, X[:, 0], loss="poisson")  # goes on without a word: its loss has no minimum there
    with pytest.raises(ValueError, match="y must not be negative for the loss 'poisson'"):
        MLPRegressor("poisson").fit(X, X[:, 0])


WEIGHTS = {
    "some zero": np.where(SIGN, 0.0, 1.0),
    "whole numbers": THREE + 1,
    "a list": (THREE + 1).tolist(),
    "a pandas Series": pd.Series(THREE + 1.0),
    "booleans": THREE > 0,
    "float32": (THREE + 1).astype(np.float32),
    "small": np.full(60, 1e-3),
    "large": np.full(60, 1e6),
    "one number": 2.0,
}


@pytest.mark.parametrize("name, y", [("MLPClassifier", SIGN), ("MLPRegressor", X[:, 1])])
@pytest.mark.parametrize("what", WEIGHTS)
def test_any_weights_that_scikit_learn_fits_are_fitted_alike(what, name, y):
    models = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in (theirs, xpmlp):
            model = getattr(module, name)(hidden_layer_sizes=(6,), max_iter=4, random_state=0)
            models.append(model.fit(X, y, WEIGHTS[what]))
    assert_the_same_answers(*models, X)


@pytest.mark.parametrize("classes", [1, 2, 3, 60])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 11, 20, 21])
def test_any_number_of_samples_and_classes_that_scikit_learn_fits_is_fitted(n, early_stopping, classes):
    y = np.arange(n) % classes
    try:
        other = trained(theirs, "MLPClassifier", X[:n], y, early_stopping=early_stopping)
    except ValueError:
        return
    ours = trained(xpmlp, "MLPClassifier", X[:n], y, early_stopping=early_stopping)
    assert ours.predict_proba(X).shape == other.predict_proba(X).shape
    if not early_stopping or ours.n_outputs_ == 1:
        assert_the_same_answers(other, ours, X)


GIVEN = {  # y of the first batch, and the argument classes
    "not sorted": (THREE, [2, 0, 1]),
    "more than there are": (SIGN, [0, 1, 2, 3]),
    "twice the same": (THREE, [0, 1, 1, 2]),
    "text": (np.array(["c", "a", "b"])[THREE], ["c", "a", "b"]),
    "wider text": (np.array(["a", "b"])[SIGN], ["a", "b", "longer"]),
    "objects": (np.array(["c", "a", "b"], dtype=object)[THREE], np.array(["a", "b", "c"], dtype=object)),
    "floats for whole numbers": (THREE, [0.0, 1.0, 2.0]),
    "whole numbers for floats": (THREE * 1.0, [0, 1, 2]),
    "whole numbers for booleans": (SIGN > 0, [0, 1]),
    "a range": (THREE, range(3)),
    "a pandas Series": (pd.Series(THREE), pd.Series([0, 1, 2])),
    "one": (0 * SIGN, [0]),
    "one of two": (0 * SIGN, [0, 1]),
}


@pytest.mark.parametrize("what", GIVEN)
def test_classes_given_to_partial_fit_are_taken_as_scikit_learn_takes_them(what):
    y, classes = GIVEN[what]
    models = [theirs.MLPClassifier((6,), random_state=0), MLPClassifier((6,), random_state=0)]
    for model in models:
        model.partial_fit(X, y, classes=classes)
        model.partial_fit(X, y)
        model.partial_fit(X, y, classes=classes)
    assert_the_same_answers(*models, X)
