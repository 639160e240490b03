"""TabularClassifier and TabularRegressor: what they learn, what they answer, what they refuse."""

import copy
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import d2_pinball_score

import xpmlp
from xpmlp import TablePreparation, TabularClassifier, TabularRegressor
from xpmlp.tabular import TableWarning

SMALL = {"hidden_layer_sizes": (16, 16), "max_iter": 20, "batch_size": 32, "n_bins": 8, "random_state": 0}


def table(n, rng):
    """A frame of numbers with gaps and of names, and what depends on both."""
    pandas = pytest.importorskip("pandas")
    size, town = rng.normal(size=n), rng.choice(["Ulm", "Bonn", "Kiel"], size=n)
    y = size + 2.0 * (town == "Ulm")
    size[::7] = np.nan
    return pandas.DataFrame({"size": size, "town": town}), y


def test_a_table_with_names_and_gaps_is_learned_as_it_is(rng):
    X, y = table(400, rng)
    model = TabularRegressor(**SMALL).fit(X[:300], y[:300])
    assert model.score(X[300:], y[300:]) > 0.7  # 1/7 of the sizes, whose variance is 1 of about 1.9, are gaps
    probabilities = TabularClassifier(**SMALL).fit(X[:300], y[:300] > 1.0).predict_proba(X[300:])
    assert np.mean((probabilities[:, 1] > 0.5) == (y[300:] > 1.0)) > 0.8


def test_columns_are_found_by_name_and_new_levels_are_answered(rng):
    X, y = table(200, rng)
    model = TabularRegressor(**SMALL).fit(X, y)
    assert np.array_equal(model.predict(X[["town", "size"]]), model.predict(X))
    assert np.all(np.isfinite(model.predict(X.assign(town=["Rome", *X["town"][1:]], more=1))))
    with pytest.raises(ValueError, match="town"):
        model.predict(X[["size"]])


def test_the_same_seed_is_the_same_model():
    X, y = load_diabetes(return_X_y=True)
    first, second = (TabularRegressor(**SMALL).fit(X, y).predict(X) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("n_members", [1, 3])
@pytest.mark.parametrize("embedding", ["piecewise", None])
def test_probabilities_are_the_mean_of_the_members(n_members, embedding):
    X, y = load_breast_cancer(return_X_y=True)
    model = TabularClassifier(n_members=n_members, embedding=embedding, refit=n_members == 3, **SMALL).fit(X, y)
    members = model.predict_members(X)
    assert members.shape == (n_members, len(X), 2)
    np.testing.assert_allclose(model.predict_proba(X), members.mean(axis=0), atol=1e-6)  # float32
    assert model.score(X, y) > 0.9


def test_three_classes_have_three_probabilities():
    X, y = load_breast_cancer(return_X_y=True)
    labels = np.where(X[:, 0] > 15, "large", np.where(y == 1, "benign", "malign"))
    model = TabularClassifier(**SMALL).fit(X, labels)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0, atol=1e-6)  # float32
    assert list(model.classes_) == ["benign", "large", "malign"]
    assert model.score(X, labels) > 0.9


def test_quantiles_do_not_cross():
    X, y = load_diabetes(return_X_y=True)
    bands = TabularRegressor(quantile=[0.9, 0.1, 0.5], **SMALL).fit(X, y).predict(X)
    assert np.all(bands[:, 1] <= bands[:, 2])
    assert np.all(bands[:, 2] <= bands[:, 0])


def test_numbers_stay_within_those_seen():
    X, y = load_diabetes(return_X_y=True)
    found = TabularRegressor(**SMALL).fit(X, y).predict(100.0 * X)
    assert y.min() <= found.min()
    assert found.max() <= y.max()


def test_weights_twice_as_large_are_the_same_weights():
    X, y = load_diabetes(return_X_y=True)
    w = np.ones(len(y))
    assert np.array_equal(
        TabularRegressor(**SMALL).fit(X, y, w).predict(X), TabularRegressor(**SMALL).fit(X, y, 2.0 * w).predict(X)
    )


@pytest.mark.parametrize(
    "model", [TabularClassifier(n_members=2, class_weight="balanced"), TabularRegressor(quantile=0.5)]
)
def test_a_clone_has_the_same_parameters(model):
    assert clone(model).get_params() == model.get_params()


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        TabularClassifier().fit(np.ones((5, 2)), np.ones(5))


def test_a_preparation_that_knows_the_columns_keeps_what_it_knows(tmp_path):
    # Of rows 20 to 59 alone "1,250" would be a thousand, and there would be no gap and no town C.
    rows = [{"price": "1,250" if 10 < k < 70 else "7,5", "size": str(k % 7), "town": "AB"[k % 2]} for k in range(80)]
    rows[0] |= {"size": "", "town": "C"}
    rows[1]["town"] = "C"
    y = np.arange(80) % 2
    known = TablePreparation(missing=["none"]).fit(rows)
    before = known.to_dict()
    some, labels = rows[20:60], y[20:60]
    model = TabularClassifier(preparation=known, **SMALL).fit(some, labels)
    assert known.to_dict() == before
    assert model.preparation_.kinds_ == known.kinds_
    assert model.preparation_.missing == ["none"]
    assert model.preparation_.to_dict() == copy.deepcopy(known).fit_scales(some).to_dict()
    anew = TabularClassifier(preparation=clone(known), **SMALL).fit(some, labels)
    assert anew.preparation_.to_dict() == TablePreparation(missing=["none"]).fit(some).to_dict()
    model.save(tmp_path / "model.safetensors")
    back = xpmlp.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(back.predict_proba(rows), model.predict_proba(rows))
    assert back.preparation.to_dict() == before
    with pytest.raises(ValueError, match="'preparation' parameter"):
        TabularClassifier(preparation="piecewise").fit(some, labels)


# --- What a hostile user passes ---


@pytest.mark.parametrize(
    ("loss", "y", "told"),
    [
        ("poisson", [-1.0, 2.0], "y must not be negative for the loss 'poisson'; got a target of -1."),
        (xpmlp.loss("binary_cross_entropy"), [0.0, 2.0], "y must lie between 0 and 1"),
        (xpmlp.loss("cross_entropy"), [[1.0, 1.0], [0.5, 0.5]], "each row of y must sum to 1"),
    ],
    ids=["poisson", "binary_cross_entropy", "cross_entropy"],
)
def test_numbers_outside_the_domain_of_the_loss_are_refused(loss, y, told, rng):
    X, y = rng.normal(size=(20, 2)), np.asarray(y * 10)
    with pytest.raises(ValueError, match=re.escape(told)):
        TabularRegressor(loss=loss, **SMALL).fit(X, y)
    right = np.full(y.shape, 0.5)
    with pytest.raises(ValueError, match=re.escape(told)):
        TabularRegressor(loss=loss, **SMALL).fit(X, right, X_val=X, y_val=y)


@pytest.mark.parametrize("factor", [2.0**900, 2.0**-900], ids=["huge", "tiny"])
def test_the_unit_of_y_changes_no_digit(factor):
    X, y = load_diabetes(return_X_y=True)
    y = y - 150.0
    settings = SMALL | {"max_iter": 4}
    plain, other = (TabularRegressor(**settings).fit(X, y * by).predict(X) for by in (1.0, factor))
    assert np.array_equal(other, plain * factor)  # powers of two are exact


@pytest.mark.parametrize(
    "y",
    [[1e308] * 20, [-1.7e308, 1.7e308] * 4 + [0.0] * 12, [5e-324, 0.0] * 10],
    ids=["equal", "far apart", "subnormal"],
)
def test_numbers_at_the_ends_of_float64_are_learned(y, rng):
    answers = TabularRegressor(**SMALL | {"max_iter": 2}).fit(rng.normal(size=(20, 2)), y).predict(np.zeros((1, 2)))
    assert min(y) <= answers[0] <= max(y)


def test_one_quantile_of_several_outputs_is_scored():
    X, y = load_diabetes(return_X_y=True)
    both = np.stack([y, -y], axis=1)
    model = TabularRegressor(quantile=0.5, **SMALL).fit(X, both)
    each = [d2_pinball_score(both[:, k], model.predict(X)[:, k], alpha=0.5) for k in range(2)]
    assert model.score(X, both) == pytest.approx(np.mean(each))
    assert np.isfinite(model.validation_score_)


@pytest.mark.parametrize("row", [{"size": 1.0, "town": "Ulm"}, {"town": "Ulm"}], ids=["numbers", "texts"])
def test_a_dict_that_is_one_row_is_told_from_columns(row):
    # The letters of a text would be its rows.
    with pytest.raises(TypeError, match=re.escape("One row alone is a list of one dict: [X].")):
        TablePreparation().fit(row)


def test_a_table_of_one_row_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"^no column of one sample is left to learn from"):
        TablePreparation().fit([[1.0, 2.0]])


def test_a_classifier_of_numbers_on_a_scale_sends_to_a_regressor(rng):
    with pytest.raises(ValueError, match="Numbers on a scale are for a regressor"):
        TabularClassifier(**SMALL).fit(rng.normal(size=(20, 2)), rng.normal(size=20))


@pytest.mark.parametrize("ask", ["predict", "predict_members", "feature_importances"])
def test_odd_cells_are_told_of_at_the_line_that_asks(ask, rng):
    X, y = table(100, rng)
    model = TabularRegressor(**SMALL | {"max_iter": 2}).fit(X, y)
    with pytest.warns(TableWarning, match="written otherwise") as told:
        getattr(model, ask)(X.assign(town="ulm"), *([y] if ask == "feature_importances" else []))
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]
    with pytest.warns(TableWarning, match="written otherwise") as told:
        model.preparation_.transform(X.assign(town="ulm"))
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]


@pytest.mark.parametrize("way", ["true", "interrupt", "error"])
def test_a_second_training_that_is_stopped_after_its_last_epoch_is_kept(way):
    X, y = load_diabetes(return_X_y=True)
    settings = SMALL | {"max_iter": 4}
    whole = TabularRegressor(**settings).fit(X, y)

    def stops(model, epoch, logs):
        if logs["stage"] == 1 or epoch < whole.best_epoch_:
            return False
        if way == "true":
            return True
        raise KeyboardInterrupt if way == "interrupt" else ArithmeticError

    model = TabularRegressor(callbacks=stops, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "error":
            with pytest.raises(ArithmeticError):
                model.fit(X, y)
        else:
            model.fit(X, y)
    assert np.array_equal(model.predict(X), whole.predict(X))
    assert model.refit_history_ == whole.refit_history_


@pytest.mark.parametrize(("name", "value"), [("dtype", "float64"), ("n_members", 2), ("average", 0.0)])
def test_going_on_with_another_parameter_names_it(name, value, tmp_path):
    X, y = load_diabetes(return_X_y=True)
    settings = SMALL | {"max_iter": 2}
    TabularRegressor(**settings).fit(X, y, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=f"with the parameters that the run began with; {name} was"):
        TabularRegressor(**settings, **{name: value}).fit(X, y, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e300], ids=["subnormal", "tiny", "huge"])
def test_weights_that_are_all_equal_are_no_weights_whatever_their_size(weight, rng):
    X, y = rng.normal(size=(40, 2)), rng.normal(size=40)
    settings = SMALL | {"max_iter": 2}
    plain, weighted = (TabularRegressor(**settings).fit(X, y, w).predict(X) for w in (None, np.full(40, weight)))
    np.testing.assert_allclose(weighted, plain, rtol=1e-4, atol=1e-5)  # float32
