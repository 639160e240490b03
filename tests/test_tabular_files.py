"""Estimators of tables in files, pickles and copies: what comes back answers as what went in."""

import copy
import json
import pickle
import re

import numpy as np
import pytest

import xpmlp
from xpmlp import TablePreparation, TabularClassifier, TabularRegressor
from xpmlp.io import storage
from xpmlp.io.lists import moved_in, moved_out
from xpmlp.io.storage import FileFormatError

TINY = {"hidden_layer_sizes": (6,), "n_members": 2, "max_iter": 3, "batch_size": 16, "n_bins": 40, "random_state": 0}

ROWS = [
    {"size": None if i % 7 == 0 else f"{i * 37 % 101},5", "town": "ABC"[i % 3], "since": f"2024-0{1 + i % 9}-11"}
    for i in range(60)
]
LABELS = {
    "numbers": np.arange(60) % 3 - 1,
    "booleans": np.arange(60) % 2 == 0,
    "texts": np.asarray(["no", "maybe", "ja"])[np.arange(60) % 3],
    "several": np.stack([np.arange(60) % 2, np.arange(60) % 3 == 0], axis=1).astype(int),
}


def again(model, how, tmp_path):
    """The model after a way there and back."""
    if how == "file":
        model.save(tmp_path / "model.safetensors")
        return xpmlp.load(tmp_path / "model.safetensors")
    return copy.deepcopy(model) if how == "copy" else pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
@pytest.mark.parametrize("kind", LABELS)
def test_a_classifier_comes_back_with_its_labels_as_they_were(kind, how, tmp_path):
    model = TabularClassifier(class_weight=None if kind == "several" else "balanced", **TINY).fit(ROWS, LABELS[kind])
    back = again(model, how, tmp_path)
    assert type(back) is TabularClassifier
    assert back.classes_.dtype == model.classes_.dtype
    assert np.array_equal(back.predict(ROWS), model.predict(ROWS))
    assert np.array_equal(back.predict_proba(ROWS), model.predict_proba(ROWS))
    for name in ("history_", "refit_history_", "best_epoch_", "validation_loss_", "stopped_by_", "n_features_in_"):
        assert getattr(back, name) == getattr(model, name), name
    assert list(back.feature_names_in_) == ["size", "town", "since"]
    assert back.get_params() == model.get_params()


@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
@pytest.mark.parametrize(
    ("parameters", "columns"),
    [({}, 1), ({}, 2), ({"quantile": [0.9, 0.1]}, 1), ({"loss": "poisson", "refit": False}, 1)],
)
def test_a_regressor_comes_back_with_its_scales(parameters, columns, how, tmp_path):
    y = np.stack([np.arange(60.0) % 11, 1e6 * np.arange(60.0)], axis=1)[:, :columns]
    model = TabularRegressor(**TINY, **parameters).fit(ROWS, y[:, 0] if columns == 1 else y)
    back = again(model, how, tmp_path)
    assert np.array_equal(back.predict(ROWS), model.predict(ROWS))
    assert (back.refit_history_ is None) == (model.refit_history_ is None)


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("how", ["file", "pickle", "copy"])
def test_a_preparation_that_was_given_comes_back(how, fitted, tmp_path):
    given = TablePreparation(decimal=",", categorical_features=["town"])
    given = given.fit(ROWS) if fitted else given
    model = TabularRegressor(preparation=given, **TINY).fit(ROWS, np.arange(60.0), checkpoint=tmp_path / "run")
    back = again(model, how, tmp_path)
    assert repr(back.preparation) == repr(given)
    assert hasattr(back.preparation, "kinds_") == fitted
    assert np.array_equal(back.predict(ROWS), model.predict(ROWS))
    assert np.array_equal(xpmlp.resume(tmp_path / "run", ROWS, np.arange(60.0)).predict(ROWS), model.predict(ROWS))


def test_an_estimator_that_knows_nothing_yet_is_pickled_and_not_saved(tmp_path):
    model = TabularRegressor(n_members=3)
    assert pickle.loads(pickle.dumps(model)).get_params() == model.get_params()
    with pytest.raises(ValueError, match="not fitted"):
        model.save(tmp_path / "model.safetensors")


def test_a_pickle_names_public_classes_only():
    model = pickle.dumps(TabularClassifier(**TINY).fit(ROWS, LABELS["texts"]), protocol=2)
    named = set(re.findall(rb"c(xpmlp[\w.]*)\n(\w+)", model))
    assert named <= {(b"xpmlp.estimators.tabular.classifier", b"TabularClassifier"), (b"xpmlp.mlp.mlp", b"MLP")}


def test_a_loaded_model_lives_where_it_is_asked_to(backend, tmp_path):
    model = TabularRegressor(**TINY).fit(ROWS, np.arange(60.0))
    model.save(tmp_path / "model.safetensors")
    back = xpmlp.load(tmp_path / "model.safetensors", backend=backend.name)
    assert (back.backend, back.backend_) == (backend.name, backend.name)
    np.testing.assert_allclose(back.predict(ROWS), model.predict(ROWS), rtol=1e-4)  # float32


# What a stranger's file may hold instead: the path into the document, and the value.
WRONG = {
    "another preparation": (["preparation", "kinds", 0, 0], "function"),
    "an epoch that never was": (["best_epoch"], 99),
    "no scale": (["scales", 1, 0], 0.0),
    "classes of nothing": (["kind"], "TabularClassifier"),
    "an unknown parameter": (["parameters", "eval"], "1"),
    "a network of another width": (["network", "sizes", 0], 3),
    "words for numbers": (["stopped_by"], "epochs"),
    "a list that is not there": (["preparation", "scales", 0, 2], {"list": "list.99"}),
}


@pytest.mark.parametrize("which", WRONG)
def test_a_file_that_makes_no_sense_is_refused(which, tmp_path):
    path = tmp_path / "model.safetensors"
    TabularRegressor(**TINY).fit(ROWS, np.arange(60.0)).save(path)
    document, arrays = storage.read(path)
    (*way, last), value = WRONG[which]
    place = document
    for step in way:
        place = place[step]
    place[last] = value
    storage.write(path, document, arrays)
    with pytest.raises(FileFormatError, match="cannot be loaded"):
        xpmlp.load(path)


def test_a_wide_table_has_room_in_a_file(tmp_path):
    # 900 columns of 33 edges, twice: as JSON they would be 1.3 MB, and a header of a stranger may have 1 MiB.
    X = np.random.default_rng(0).normal(size=(80, 900))
    model = TabularRegressor(**TINY | {"n_bins": 64, "max_iter": 1}).fit(X, X[:, 0])
    back = again(model, "file", tmp_path)
    assert np.array_equal(back.predict(X), model.predict(X))


def test_long_lists_of_numbers_leave_the_document_and_come_back():
    document = {
        "a": [[0.1 * i for i in range(50)], ["x", 1.5]],
        "b": {"c": [1.0] * 20, "list": "own word"},
        "n": [1] * 50,
    }
    short, arrays = moved_out(document)
    assert {name: array.shape for name, array in arrays.items()} == {"list.0": (50,), "list.1": (20,)}
    assert json.loads(json.dumps(short))["n"] == [1] * 50  # whole numbers stay whole
    assert moved_in(short, arrays | {"W.1": np.zeros(3)}) == document
    with pytest.raises(KeyError):
        moved_in({"a": {"list": "list.0"}, "b": {"list": "list.0"}}, {"list.0": np.zeros(20)})
    with pytest.raises(ValueError, match="finite"):
        moved_in({"a": {"list": "list.0"}}, {"list.0": np.full(20, np.nan)})
