"""ONNX of parts, of members, and of the estimators of tables with what they do to a table before the network."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest
from test_parts import LOSSES, NETWORKS, net_and_samples

import xpmlp
from xpmlp import MLP, TabularClassifier, TabularRegressor
from xpmlp.network.parts import PARTS
from xpmlp.tabular.kinds import CategoryKind, LeftOut, NumberKind

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Of the largest value: seen 2e-7 and 5e-16.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
HOW = {"n_members": 2, "hidden_layer_sizes": (6, 5), "max_iter": 3, "batch_size": 8, "n_bins": 8, "random_state": 0}


def run(path, feeds):
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def close(there, here, dtype):
    assert there.dtype == dtype
    assert there.shape == here.shape
    assert np.max(np.abs(there - here)) <= TOLERANCE[dtype] * max(np.max(np.abs(here)), 1.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


# --- Networks ---


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss, n_outputs", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_and_members_say_in_onnx_what_they_say_here(name, loss, n_outputs, dtype, path, rng):
    net, *_ = net_and_samples(rng, loss, n_outputs, **NETWORKS[name])
    net.to_onnx(path, dtype=dtype)
    for rows in (1, 40):  # any number of them, and far outside the edges of the bins
        x = (3.0 * rng.normal(size=(rows, 5))).astype(dtype)
        close(run(path, {"X": x})["yhat"], net.predict(x.astype("float64")).astype(dtype), dtype)


@pytest.mark.parametrize("options", [{}, {"parts": {0: "member_scale"}}], ids=["bare", "scaled"])
def test_members_of_one_layer_say_the_same(options, path, rng):
    net, x = MLP([3, 2], members=3, random_state=0, **options), rng.normal(size=(4, 3))
    net.to_onnx(path, dtype="float64")
    close(run(path, {"X": x})["yhat"], net.predict(x), "float64")


def test_a_part_of_your_own_is_refused_by_name(path):
    from dataclasses import replace

    row = replace(PARTS["layer_norm"], forward=lambda part, own, z: (z, None))
    with pytest.raises(
        ValueError, match=re.escape("ONNX has no word for the part 'layer_norm'; choose of layer_norm,")
    ):
        MLP([3, 4, 1], parts={1: row}).to_onnx(path)


# --- Tables ---


def table(rng, n=60):
    """Numbers far from 0, gaps in both kinds, two levels and more, truths, numbers that are names, a constant."""
    rows = []
    for i in range(n):
        row = {"size": 1e6 + 3.0 * rng.normal(), "town": "ABC"[rng.integers(3)], "sex": "mf"[rng.integers(2)]}
        row |= {"label": rng.normal(), "own": bool(rng.integers(2)), "code": float(rng.integers(3)), "constant": 1}
        rows.append({key: None if key in ("size", "town") and i % 9 == 4 else value for key, value in row.items()})
    return rows


def feeds_of(model, rows):
    """Rows as the inputs of the exported model."""
    found = {}
    for kind in model.preparation_.kinds_:
        cells = [row[kind.name] for row in rows]
        if isinstance(kind, NumberKind):
            found[kind.name] = np.array([[np.nan if cell is None else cell] for cell in cells], dtype=np.float64)
        elif isinstance(kind, CategoryKind):
            found[kind.name] = np.array([["" if cell is None else str(cell)] for cell in cells], dtype=object)
    return found


def target_of(rows):
    return np.array([(row["size"] or 1e6) - 1e6 + row["label"] + (row["town"] == "A") for row in rows])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "kind", ["two classes", "three classes", "labels", "numbers", "quantiles", "two outputs", "no code"]
)
def test_an_estimator_of_tables_says_in_onnx_what_it_says_here(kind, dtype, path, rng):
    rows = table(rng)
    y, how = target_of(rows), HOW | {"categorical_features": ["code"], "dtype": dtype}
    model, answers = {
        "two classes": lambda: (TabularClassifier(class_weight="balanced", **how), np.where(y > 0.5, "yes", "no")),
        "three classes": lambda: (TabularClassifier(**how), np.digitize(y, [-1.0, 1.0])),
        "labels": lambda: (TabularClassifier(**how), np.stack([y > 0.0, y > 1.0], axis=1).astype(int)),
        "numbers": lambda: (TabularRegressor(**how), 1e4 * y),
        "quantiles": lambda: (TabularRegressor(quantile=[0.9, 0.1, 0.5], **how), y),
        "two outputs": lambda: (TabularRegressor(**how), np.stack([y, 100.0 + 5.0 * y], axis=1)),
        "no code": lambda: (TabularRegressor(embedding=None, **how | {"n_members": 1}), y),
    }[kind]()
    model.fit(rows, answers)
    # What was never seen counts as the preparation says: an unknown town, a far number, writings of one thing
    new = table(np.random.default_rng(9), 30)
    new[0] |= {"town": "Z", "size": 3e6, "code": "2"}
    new[1] |= {"own": "TRUE", "town": "n/a", "code": "2.0"}
    model.to_onnx(path, dtype=dtype)
    for some in (rows, new, new[:1]):
        found = run(path, feeds_of(model, some))
        if isinstance(model, TabularClassifier):
            labels = found["label_"]  # a column has the name
            assert labels.tolist() == model.predict(some).tolist()
            close(found["probabilities"], model.predict_proba(some).astype(dtype), dtype)
        else:
            here = model.predict(some)
            close(found["variable"], here.reshape(len(some), -1).astype(dtype), dtype)


def test_a_table_of_numbers_without_names_is_one_input(path, rng):
    X = rng.normal(size=(50, 4))
    X[::5, 1], X[:, 2] = np.nan, 7.0  # gaps, a constant that is left out
    model = TabularRegressor(**HOW).fit(X, X[:, 0])
    model.to_onnx(path)
    assert any(isinstance(kind, LeftOut) for kind in model.preparation_.kinds_)
    close(run(path, {"X": X})["variable"][:, 0], model.predict(X).astype("float32"), "float32")


def test_a_column_that_never_said_anything_stays_silent(path, rng):
    rows = table(rng)
    model = TabularRegressor(**HOW).fit(rows, target_of(rows))
    gap = model.preparation_.n_numbers_
    model.preparation_.silent_ = (gap,)
    model.to_onnx(path)
    close(run(path, feeds_of(model, rows))["variable"][:, 0], model.predict(rows).astype("float32"), "float32")


def test_dates_are_what_onnx_has_no_words_for_and_the_error_says_what_to_do(path, rng):
    rows = [row | {"when": f"2024-01-{1 + i % 28:02d}"} for i, row in enumerate(table(rng))]
    model = TabularRegressor(**HOW).fit(rows, target_of(rows))
    with pytest.raises(ValueError, match=re.escape("ONNX has no words for dates, and column 'when' holds them.")):
        model.to_onnx(path)
    assert not path.exists()
    # What it says to do
    model.network_.to_onnx(path)
    there = run(path, {"X": model.preparation_.transform(rows)})["yhat"][:, 0]
    numbers = model._known_targets()
    here = model.predict(rows)
    inside = (here > numbers.low[0]) & (here < numbers.high[0])
    close(there[inside] * numbers.scale[0] + numbers.centre[0], here[inside].astype("float32"), "float32")


def test_what_was_not_fitted_is_not_exported(path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        TabularClassifier().to_onnx(path)


# --- skl2onnx ---


def test_skl2onnx_exports_an_estimator_of_tables_column_by_column(rng):
    skl2onnx = pytest.importorskip("skl2onnx")
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType

    xpmlp.register_onnx()
    rows = [{key: value for key, value in row.items() if key != "label"} for row in table(rng) if row["size"]]
    y = np.array([row["size"] - 1e6 for row in rows])
    how = HOW | {"categorical_features": ["code"], "dtype": "float64"}
    for model, answers in ((TabularClassifier(**how), np.where(y > 0, "hi", "lo")), (TabularRegressor(**how), y)):
        model.fit(rows, answers)
        feeds = feeds_of(model, rows)
        feeds["code"] = np.array([[int(row["code"])] for row in rows])  # numbers that are names may stay numbers
        types = {np.dtype(float): DoubleTensorType, np.dtype(int): Int64TensorType, np.dtype(object): StringTensorType}
        types = [(name, types[values.dtype]([None, 1])) for name, values in feeds.items()]
        options = {"zipmap": False} if isinstance(model, TabularClassifier) else None
        made = skl2onnx.to_onnx(model, initial_types=types, options=options)
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        found = session.run(None, feeds)
        if isinstance(model, TabularClassifier):
            assert found[0].tolist() == model.predict(rows).tolist()
            close(found[1], model.predict_proba(rows), "float64")
        else:
            close(found[0][:, 0], model.predict(rows), "float64")
        with pytest.raises(ValueError, match=re.escape("the model needs the column 'town' as an input; got size, sex")):
            skl2onnx.to_onnx(model, initial_types=[it for it in types if it[0] != "town"], options=options)


def test_skl2onnx_exports_a_pipeline_that_ends_in_one(rng):
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    xpmlp.register_onnx()
    X = rng.normal(size=(60, 3))
    pipeline = make_pipeline(StandardScaler(), TabularRegressor(**HOW)).fit(X, X[:, 0])
    made = skl2onnx.to_onnx(pipeline, X[:1]).SerializeToString()
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    here = pipeline.predict(X)
    # The network computes in float32 here and in float64 there; seen 1e-7
    assert np.max(np.abs(session.run(None, {"X": X})[0][:, 0] - here)) < 1e-5
