"""Tables on a Dask cluster of two processes: what its workers learn is what one process learns of the same shards.

Without Dask or PyTorch the tests are skipped; XPMLP_REQUIRE=dask turns that into a failure. The cluster, and what
happens where a worker is lost, are those of tests/test_dask.py.
"""

from __future__ import annotations

import itertools
import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from test_dask import at_epoch_4, dies

import xpmlp
from xpmlp import TabularClassifier, TabularRegressor, distributed, shards
from xpmlp.dask import DaskMLPClassifier, DaskTabularClassifier, DaskTabularRegressor, WorkerLostError

pandas = pytest.importorskip("pandas")

pytestmark = pytest.mark.skipif(
    "XPMLP_PROCESSES" not in os.environ, reason="several processes: `nox -s processes` runs them"
)
RNG = np.random.default_rng(0)
N, ROWS = 733, 61  # of the table, and of a partition: a shard each, the last one short
TABLE = pandas.DataFrame(
    {
        "amount": RNG.standard_normal(N),
        "price": [f"{1000 + 7 * i:,} EUR" for i in range(N)],
        "colour": RNG.choice(["red", "green", "blue"], N),
        "size": pandas.Categorical(RNG.choice(["S", "M", "L"], N)),
        "day": pandas.date_range("2024-01-01", periods=N, freq="D"),
    }
)
TABLE.loc[::17, "amount"] = np.nan
LABELS = pandas.Series(np.where((TABLE["amount"].fillna(0.0) > 0.0) ^ (TABLE["colour"] == "red"), "yes", "no"))
AMOUNTS = pandas.Series(np.where(TABLE["colour"] == "red", 3.0, 0.0) + 2.0 * TABLE["amount"].fillna(0.0) + 50.0)
WEIGHTS = pandas.Series(RNG.random(N))
SETTINGS: dict[str, Any] = {"n_members": 2, "hidden_layer_sizes": (16,), "max_iter": 5, "batch_size": 64}
SETTINGS |= {"random_state": 0, "dtype": "float64"}
EDGES = [*range(0, N, ROWS), N]


def parts(*columns: Any, edges: list[int] = EDGES) -> shards.Shards:
    """Shards in memory, cut as the partitions are."""
    found = [
        (X[a:b], *(np.asarray(c[a:b]) for c in others))
        for (X, *others), (a, b) in ((columns, edge) for edge in itertools.pairwise(edges))
    ]
    return shards.from_sequence(found)


def frames(*columns: Any, edges: list[int] = EDGES) -> list[Any]:
    """Dask dataframes and columns in partitions with these edges."""
    dd: Any = pytest.importorskip("dask.dataframe")
    return [dd.concat([dd.from_pandas(c[a:b], npartitions=1) for a, b in itertools.pairwise(edges)]) for c in columns]


def same(found: Any, expected: Any, apart: float = 1e-10) -> None:
    """The same preparation, weights and curves, up to the rounding of another order of the sum."""
    assert found.preparation_.to_dict() == expected.preparation_.to_dict()
    assert list(found.history_) == list(expected.history_)
    for name, curve in expected.history_.items():
        np.testing.assert_allclose(found.history_[name], curve, rtol=0, atol=apart, err_msg=name)
    np.testing.assert_allclose(found.network_.parameters, expected.network_.parameters, rtol=0, atol=apart)


CASES: dict[str, tuple[Any, Any, tuple[Any, ...], dict[str, Any]]] = {
    "classes": (DaskTabularClassifier, TabularClassifier, (TABLE, LABELS), {}),
    "balanced classes, with weights": (
        DaskTabularClassifier,
        TabularClassifier,
        (TABLE, LABELS, WEIGHTS),
        {"class_weight": "balanced"},
    ),
    "numbers, with weights": (DaskTabularRegressor, TabularRegressor, (TABLE, AMOUNTS, WEIGHTS), {}),
    "quantiles": (DaskTabularRegressor, TabularRegressor, (TABLE, AMOUNTS), {"quantile": [0.1, 0.9]}),
}


@pytest.mark.parametrize(("OnDask", "Alone", "columns", "settings"), CASES.values(), ids=CASES)
def test_two_workers_learn_what_one_process_does(
    client: Any,
    OnDask: Any,
    Alone: Any,
    columns: tuple[Any, ...],
    settings: dict[str, Any],
) -> None:
    expected = Alone(**SETTINGS | settings).fit(parts(*columns))
    same(OnDask(**SETTINGS | settings, client=client).fit(*frames(*columns)), expected)


@pytest.mark.parametrize("lanes", [1, 8])  # with one lane there is work for one worker alone
def test_a_fixed_order_gives_the_same_bits_on_any_number_of_workers(client: Any, lanes: int) -> None:
    settings = SETTINGS | {"dtype": "float32"}
    data = parts(TABLE, LABELS)
    data.lanes = lanes
    expected = TabularClassifier(**settings).fit(data, group=distributed.alone(fixed_order=True))
    model = DaskTabularClassifier(**settings, client=client, lanes=lanes, fixed_order=True)
    dX, dy = frames(TABLE, LABELS)
    same(model.fit(dX, dy.to_frame()), expected, apart=0.0)


def test_arrays_are_tables_too_and_rows_to_judge_by_may_be_dasks_or_not(client: Any) -> None:
    da: Any = pytest.importorskip("dask.array")
    X, y = RNG.standard_normal((N, 4)), RNG.standard_normal((N, 2))
    X[::9, 1] = np.nan
    source = shards.from_arrays(X, y, rows=ROWS)
    expected = TabularRegressor(**SETTINGS).fit(source, X_val=shards.from_arrays(X[:200], y[:200], rows=ROWS))
    dX, dy = da.from_array(X, chunks=(ROWS, 3)), da.from_array(y, chunks=(ROWS, 2))
    model = DaskTabularRegressor(**SETTINGS, client=client)
    same(clone(model).fit(dX, y, X_val=dX[:200].rechunk((ROWS, 4)), y_val=dy[:200].rechunk((ROWS, 2))), expected)
    here = TabularRegressor(**SETTINGS).fit(source, X_val=X[:200], y_val=y[:200])
    same(model.fit(dX, dy, X_val=X[:200], y_val=y[:200]), here)
    assert model.predict(dX).shape == (N, 2)
    np.testing.assert_allclose(model.predict(dX).compute(), here.predict(X), rtol=0, atol=1e-8)


def test_what_is_said_of_a_collection_is_one(client: Any, tmp_path: Path) -> None:
    # The last partition is empty, and one weighs nothing.
    edges = [*EDGES, N]
    w = WEIGHTS.copy()
    w[:ROWS] = 0.0
    dX, dlabels, damounts, dw = frames(TABLE, LABELS, AMOUNTS, w, edges=edges)
    several = {"quantile": [0.1, 0.9]}
    clf = DaskTabularClassifier(**SETTINGS, client=client).fit(dX, dlabels, dw)
    reg = DaskTabularRegressor(**SETTINGS | {"dtype": "float32"}, client=client).fit(dX, damounts)
    two = DaskTabularRegressor(**SETTINGS, **several, client=client).fit(dX, damounts)
    for model, method, shape, dtype in (
        (clf, "predict", (N,), clf.classes_.dtype),
        (clf, "predict_proba", (N, 2), np.float64),
        (clf, "predict_log_proba", (N, 2), np.float64),
        (clf, "predict_members", (2, N, 2), np.float64),
        (reg, "predict", (N,), np.float64),
        (reg, "predict_members", (2, N, 1), np.float64),
        (two, "predict", (N, 2), np.float64),
    ):
        answer = getattr(model, method)(dX)
        assert (answer.ndim, answer.dtype) == (len(shape), dtype), method
        given, expected = answer.compute(), getattr(model.to_local(), method)(TABLE)
        assert (given.shape, given.dtype) == (shape, expected.dtype), method
        if method == "predict" and model is clf:
            np.testing.assert_array_equal(given, expected)
        else:
            np.testing.assert_allclose(given, expected, err_msg=method)
    assert clf.score(dX, dlabels, dw) == pytest.approx(clf.to_local().score(TABLE, LABELS, w))
    assert reg.score(dX, damounts, dw) == pytest.approx(reg.to_local().score(TABLE, AMOUNTS, w))
    assert two.score(dX, damounts, dw) == pytest.approx(two.to_local().score(TABLE, AMOUNTS, w))
    np.testing.assert_array_equal(clf.predict(TABLE[:5]), clf.to_local().predict(TABLE[:5]))

    # Without Dask.
    local = clf.to_local()
    assert type(local) is TabularClassifier
    assert not {"client", "lanes", "restarts"} & set(vars(local))
    expected = local.predict_proba(TABLE)
    clf.save(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(xpmlp.load(tmp_path / "model.safetensors").predict_proba(TABLE), expected)
    again = pickle.loads(pickle.dumps(clf))
    assert again.client is None
    np.testing.assert_array_equal(again.predict_proba(TABLE), expected)
    cloned = clone(clf)
    assert cloned.client is client
    assert cloned.get_params() == clf.get_params()
    assert not hasattr(cloned, "network_")

    # What weighs nothing has no score, as without Dask.
    nothing = (dw * 0.0).to_frame()
    for model, y, there in ((clf, dlabels, LABELS), (reg, damounts, AMOUNTS)):
        with pytest.raises(ValueError, match="must contain at least one non-zero number") as here:
            model.score(dX, y, nothing)
        with pytest.raises(ValueError, match=re.escape(str(here.value))):
            model.to_local().score(TABLE, there, np.zeros(N))


def test_several_labels_a_row(client: Any) -> None:
    both = pandas.DataFrame({"high": AMOUNTS > 51.0, "red": TABLE["colour"] == "red"}).astype(int)
    expected = TabularClassifier(**SETTINGS).fit(parts(TABLE, both))
    dX, dy = frames(TABLE, both)
    model = DaskTabularClassifier(**SETTINGS, client=client).fit(dX, dy)
    same(model, expected)
    answer = model.predict(dX)
    given = answer.compute()
    assert (answer.dtype, given.shape) == (given.dtype, (N, 2))
    np.testing.assert_array_equal(given, expected.predict(TABLE))


# --- When something breaks ---


@pytest.mark.parametrize("fixed", [False, True])
def test_a_fit_outlives_a_worker_that_is_killed(client: Any, tmp_path: Path, fixed: bool) -> None:
    settings = SETTINGS | {"max_iter": 9} | ({"dtype": "float32"} if fixed else {})
    group = distributed.alone(fixed_order=fixed)
    expected = TabularClassifier(**settings).fit(parts(TABLE, LABELS), group=group)
    model = DaskTabularClassifier(**settings, client=client, callbacks=at_epoch_4(tmp_path, dies), fixed_order=fixed)
    same(model.fit(*frames(TABLE, LABELS)), expected, apart=0.0 if fixed else 1e-10)
    assert time.time() - (tmp_path / "happened").stat().st_mtime < 60.0


def test_who_has_no_restarts_left_goes_on_from_the_checkpoint(client: Any, tmp_path: Path) -> None:
    settings = SETTINGS | {"max_iter": 9}
    model = DaskTabularClassifier(**settings, client=client, callbacks=at_epoch_4(tmp_path, dies), restarts=0)
    with pytest.raises(WorkerLostError, match=r"the worker tcp://\S+ is gone, in epoch 4, and restarts=0") as told:
        model.fit(*frames(TABLE, LABELS), checkpoint=tmp_path / "run")
    assert told.value.checkpoint == tmp_path / "run"
    assert not hasattr(model, "network_")
    client.wait_for_workers(2, timeout=60)
    model.set_params(callbacks=None).fit(*frames(TABLE, LABELS), checkpoint=tmp_path / "run", resume=True)
    same(model, TabularClassifier(**settings).fit(parts(TABLE, LABELS)))


def broken() -> list[Any]:
    table = TABLE.copy()
    table.loc[700, "amount"] = np.inf
    return frames(table, AMOUNTS)


def test_an_estimator_in_memory_names_the_way() -> None:
    with pytest.raises(ValueError, match=re.escape("this one is in Dask's partitions: the estimators of xpmlp.dask")):
        TabularClassifier(**SETTINGS).fit(frames(TABLE)[0], LABELS)


REFUSED: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "a frame in memory": (lambda: (TABLE, LABELS), {}, "X must be a Dask array of shape (n, n_features)"),
    "one class": (lambda: frames(TABLE, LABELS.where(LABELS == "no", "no")), {}, "y must hold at least two classes"),
    "a parameter": (lambda: frames(TABLE, LABELS), {"validation_fraction": 2.0}, "validation_fraction"),
    "an infinite number": (broken, {}, "infinit"),
}


@pytest.mark.parametrize(("data", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_trained_on_says_so(
    client: Any,
    data: Callable[[], Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DaskTabularClassifier(**SETTINGS | settings, client=client).fit(*data())


@pytest.mark.parametrize("OnDask", [DaskTabularClassifier, DaskMLPClassifier])
def test_a_validation_set_needs_its_y(client: Any, OnDask: Any) -> None:
    dX, dy = frames(TABLE[["amount"]].fillna(0.0), LABELS)
    with pytest.raises(ValueError, match="X_val and y_val come together"):
        OnDask(client=client).fit(dX, dy, X_val=dX)


def test_arrays_that_weigh_nothing_have_no_score_either(client: Any) -> None:
    da: Any = pytest.importorskip("dask.array")
    X = RNG.standard_normal((100, 3))
    dX, dy = da.from_array(X, chunks=(50, 3)), da.from_array(X[:, 0] > 0, chunks=50)
    model = DaskMLPClassifier(4, max_iter=400, tol=1e-2, random_state=0, client=client).fit(dX, dy)
    with pytest.raises(ValueError, match="must contain at least one non-zero number"):
        model.score(dX, dy, np.zeros(100))
