"""Tables' estimators as scikit-learn's: its own checks, and frames through its pipelines, searches and routing."""

import inspect
import re

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import estimator_checks_generator

from xpmlp import TabularClassifier, TabularRegressor
from xpmlp.estimators.parameters import InvalidParameterError
from xpmlp.tabular import TableWarning

SMALL = {"hidden_layer_sizes": (16, 16), "n_members": 2, "max_iter": 30, "batch_size": 16, "n_bins": 8}
TINY = {"hidden_layer_sizes": (6,), "n_members": 2, "max_iter": 3, "batch_size": 16, "n_bins": 8, "random_state": 0}
BOTH = pytest.mark.parametrize("cls", [TabularClassifier, TabularRegressor])

# A weight counts in the loss as so many rows do, but medians, the part held out and batches are of rows.
EXPECTED = {"check_sample_weight_equivalence_on_dense_data": "medians, the part held out and batches are of rows"}


def checks():
    for cls in (TabularClassifier, TabularRegressor):
        for i, (estimator, check) in enumerate(estimator_checks_generator(cls(**SMALL), legacy=True, mark=None)):
            name = check.func.__name__
            marks = [pytest.mark.xfail(reason=EXPECTED[name], strict=True)] if name in EXPECTED else []
            yield pytest.param(estimator, check, id=f"{cls.__name__}-{i}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore::xpmlp.tabular.TableWarning")
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_every_estimator_check_passes(estimator, check):
    check(estimator)


def test_an_estimator_that_breaks_a_rule_fails_its_check(monkeypatch):
    proper = TabularRegressor.predict
    monkeypatch.setattr(TabularRegressor, "predict", lambda self, X: proper(self, X) + len(X))
    for estimator, check in estimator_checks_generator(TabularRegressor(**SMALL), legacy=True, mark=None):
        if check.func.__name__ == "check_methods_subset_invariance":
            with pytest.raises(AssertionError):
                check(estimator)
            return
    pytest.fail("scikit-learn has no such check any more")


@pytest.fixture
def frame():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    size, town = rng.normal(size=80), rng.choice(["Ulm", "Bonn", "Kiel"], size=80)
    y = size + 2.0 * (town == "Ulm")
    return pandas.DataFrame({"size": size, "town": town, "open": size > 0}), y


# --- Signatures ---


@BOTH
def test_every_parameter_and_fitted_attribute_is_documented(cls, frame):
    documented = cls.__doc__.replace(", ", " : ").split()
    signature = inspect.signature(cls).parameters
    assert all(row.kind is inspect.Parameter.KEYWORD_ONLY for row in signature.values())
    fitted = cls(**TINY).fit(frame[0], frame[1] > 0)
    attributes = [name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")]
    for name in [*signature, *attributes, "backend_", "device_", "dtype_"]:
        assert name in documented, name


@BOTH
def test_parameters_are_told_in_order_and_printed_where_they_are_not_the_default(cls):
    assert repr(cls(n_members=3, time_limit=5)) == f"{cls.__name__}(n_members=3, time_limit=5)"
    model = cls(n_members=3, quantile=[0.1, 0.9]) if cls is TabularRegressor else cls(class_weight={"a": 2.0})
    assert clone(model).get_params() == model.get_params()


BAD = {
    "n_members": [0, 1.5, None],
    "hidden_layer_sizes": [(0,), "a", (4, 0.5)],
    "dropout": [1.0, -0.1, "much"],
    "embedding": ["fourier", 1],
    "n_bins": [1, 2.5],
    "embedding_width": [0],
    "learning_rate_init": [0.0, "fast"],
    "weight_decay": [-1.0],
    "batch_size": [0, "auto"],
    "max_iter": [0, "many"],
    "validation_fraction": [0.0, 1.0],
    "refit": [3, "yes"],
    "average": [-1.0, None],
    "categorical_features": ["size", 3],
    "time_limit": [0.0, -5, "long"],
    "random_state": ["x", -1],
    "verbose": ["q", -1],
    "backend": ["tensorflow"],
    "device": [0],
    "dtype": ["float16"],
    "callbacks": ["print", [1]],
}


@pytest.mark.parametrize("name", BAD)
def test_a_parameter_that_cannot_be_is_told_by_its_name(name, frame):
    for value in BAD[name]:
        with pytest.raises(InvalidParameterError, match=re.escape(name)):
            TabularRegressor(**{**TINY, name: value}).fit(*frame)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"quantile": 1.0}, "quantile"),
        ({"quantile": [0.1, 2]}, "quantile"),
        ({"loss": "cubic"}, "loss"),
        ({"quantile": 0.5, "loss": "huber"}, "pinball"),
    ],
)
def test_a_loss_that_cannot_be_is_told(parameters, name, frame):
    with pytest.raises(ValueError, match=name):
        TabularRegressor(**TINY, **parameters).fit(*frame)


# --- Frames in scikit-learn's house ---


@BOTH
def test_not_fitted_is_said_as_everywhere(cls, frame):
    for method in ("predict", "predict_members"):
        with pytest.raises(NotFittedError):
            getattr(cls(), method)(frame[0])
    with pytest.raises(NotFittedError):
        cls().feature_importances(*frame)
    with pytest.raises(NotFittedError):
        _ = cls().backend_


def test_a_frame_passes_searches_pipelines_and_folds(frame):
    X, y = frame
    search = GridSearchCV(TabularClassifier(**TINY), {"n_members": [1, 2]}, cv=2).fit(X, y > 0.5)
    assert search.predict(X).shape == (80,)
    assert list(search.feature_names_in_) == ["size", "town", "open"]
    assert cross_val_score(TabularRegressor(**TINY), X, y, cv=2).shape == (2,)
    piped = make_pipeline(FunctionTransformer(), TabularRegressor(**TINY)).fit(X, y)
    assert np.array_equal(piped.predict(X), TabularRegressor(**TINY).fit(X, y).predict(X))


def test_metadata_is_routed(frame):
    X, y = frame
    with config_context(enable_metadata_routing=True):
        model = TabularRegressor(**TINY).set_fit_request(sample_weight=True, X_val=False)
        model.set_score_request(sample_weight=True)
        assert model.get_metadata_routing().fit.requests["sample_weight"] is True
        w = np.linspace(0.0, 1.0, 80)
        piped = make_pipeline(FunctionTransformer(), model).fit(X, y, sample_weight=w)
    assert np.array_equal(piped.predict(X), TabularRegressor(**TINY).fit(X, y, w).predict(X))


@BOTH
def test_a_second_fit_is_the_first_one(cls, frame):
    X, y = frame
    model = cls(**TINY).fit(X, y > 0)
    first = model.predict_members(X)
    assert np.array_equal(model.fit(X, y > 0).predict_members(X), first)
    model.fit(X.to_numpy(), y > 0)  # and one without names has none
    assert not hasattr(model, "feature_names_in_")


# --- What comes to predict ---

OTHER = {
    "a new level": (lambda X: X.assign(town=["Rome", *X["town"][1:]]), None),
    "a new gap": (lambda X: X.assign(size=[np.nan, *X["size"][1:]], town=[None, *X["town"][1:]]), None),
    "an extra column": (lambda X: X.assign(more=1), "same"),
    "another order": (lambda X: X[["open", "town", "size"]], "same"),
    "numbers as texts": (lambda X: X.assign(size=[f"{x!r}" for x in X["size"].tolist()]), "same"),
    "truths as texts": (lambda X: X.assign(open=["true" if x else "false" for x in X["open"]]), "same"),
    "a category": (lambda X: X.assign(town=X["town"].astype("category")), "same"),
    "a missing column": (lambda X: X[["size", "open"]], "'town' is not there"),
    "texts for numbers": (
        lambda X: X.assign(size=["tall", "short"] * 40),
        r"column 'size' must hold numbers.*'tall' in row 0",
    ),
    "dates for numbers": (lambda X: X.assign(size=np.datetime64("2024-01-01")), "column 'size' must hold numbers"),
    "infinity": (lambda X: X.assign(size=[0.0, np.inf, *X["size"][2:]]), "infinit.*row 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHER)
def test_another_frame_is_answered_or_named(what, frame):
    X, y = frame
    model = TabularRegressor(**TINY).fit(X, y)
    change, outcome = OTHER[what]
    if outcome is None:
        found = model.predict(change(X))
        assert np.array_equal(found[1:], model.predict(X)[1:])
        assert np.isfinite(found[0])
    elif outcome == "same":
        assert np.array_equal(model.predict(change(X)), model.predict(X))
    else:
        with pytest.raises(ValueError, match=outcome):
            model.predict(change(X))


def test_frames_of_all_makers_are_one(frame):
    X, y = frame
    model = TabularRegressor(**TINY).fit(X, y)
    told = model.predict(X)
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for other in (polars.DataFrame(X.to_dict("list")), pyarrow.table(X.to_dict("list")), X.to_dict("records")):
        assert np.array_equal(model.predict(other), told)
        assert np.array_equal(TabularRegressor(**TINY).fit(other, y).predict(X), told)


def test_columns_whose_names_are_numbers_are_columns(frame):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(np.random.default_rng(1).normal(size=(40, 3)), columns=[2, 0, 1])
    model = TabularRegressor(**TINY).fit(X, X[2])
    assert np.array_equal(model.predict(X.to_numpy()), model.predict(X))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_few_rows_are_learned_from(n):
    X = [{"a": float(i), "b": "xy"[i % 2]} for i in range(n)]
    model = TabularRegressor(**TINY).fit(X, np.arange(n))
    assert np.all(np.isfinite(model.predict(X)))
    assert model.predict(X).min() >= 0
    with pytest.raises(ValueError, match="at least two rows"):
        TabularRegressor(**TINY).fit(X[:1], [1.0])


def test_what_is_said_of_a_table_is_a_warning_of_its_own():
    rows = [{"id": f"u{i}x", "size": float(i)} for i in range(30)]
    with pytest.warns(TableWarning, match="left out: id") as told:
        TabularRegressor(**TINY).fit(rows, np.arange(30.0))
    assert len(told) == 1  # for both trainings
    assert told[0].filename == __file__
    model = TabularRegressor(**TINY)
    with pytest.raises(TableWarning):  # given last, so that nobody loses a model to it
        model.fit(rows, np.arange(30.0))
    assert np.all(np.isfinite(model.predict(rows)))
